/* Instance norm, a sum and leaky ReLU over rows of channels (voxels, channels), in blocks of rows.

   A result may take the place of its rows: ivdep tells the compiler that no step of a loop over
   channels reads what another one writes. */

typedef long long number;

/* For blocks `begin` to `end` of `size` rows: each channel's sum, and the squares about the block's
   mean summed; both (blocks, channels). */
void statistics(
    const float *rows, number count, number channels, number size, number begin, number end, float *sums,
    float *squares)
{
    for (number block = begin; block < end; block++) {
        const number last = (block + 1) * size < count ? (block + 1) * size : count;
        const number first = block * size;
        float *restrict sum = sums + block * channels, *restrict square = squares + block * channels;
        for (number row = first; row < last; row++)
#pragma GCC ivdep
            for (number c = 0; c < channels; c++)
                sum[c] += rows[row * channels + c];
        for (number row = first; row < last; row++)
#pragma GCC ivdep
            for (number c = 0; c < channels; c++) {
                const float away = rows[row * channels + c] - sum[c] / (float)(last - first);
                square[c] += away * away;
            }
    }
}

/* leaky_relu((rows - mean) * scale + shift + added), a slope of 1 rectifying nothing. */
void normalize(
    const float *rows, const float *added, number channels, const float *restrict mean,
    const float *restrict scale, const float *restrict shift, float slope, float *result, number begin,
    number end)
{
    for (number row = begin; row < end; row++) {
        const float *from = rows + row * channels;
        float *to = result + row * channels;
#pragma GCC ivdep
        for (number c = 0; c < channels; c++) {
            float value = (from[c] - mean[c]) * scale[c] + shift[c];
            if (added)
                value += added[row * channels + c];
            to[c] = value > 0 ? value : value * slope;
        }
    }
}

/* What the passes backward read, row by row: the gradient of the result, its rows `pitch` apart; and
   either the result, from which the norm is undone, or the rows before it with their statistics. */
typedef struct {
    const float *result, *rows, *gradient, *added;
    const float *mean, *scale, *gain, *shift, *undo; /* of each channel, the last one over the gain */
    number pitch, channels;
    float slope;
} Given;

#define FOR_EACH_CHANNEL(BODY) \
    do { \
        const float *g = given->gradient + row * given->pitch; \
        const float *plus = given->added ? given->added + row * channels : 0; \
        if (given->rows) { \
            const float *x = given->rows + row * channels; \
            _Pragma("GCC ivdep") for (number c = 0; c < channels; c++) \
            { \
                const float norm = (x[c] - mean[c]) * scale[c]; \
                float value = norm * gain[c] + shift[c]; \
                if (plus) \
                    value += plus[c]; \
                const float before = value > 0 ? g[c] : g[c] * slope; \
                BODY \
            } \
        } else { \
            const float *y = given->result + row * channels; \
            _Pragma("GCC ivdep") for (number c = 0; c < channels; c++) \
            { \
                const float before = y[c] > 0 ? g[c] : g[c] * slope; \
                float value = y[c] > 0 ? y[c] : y[c] * steep; \
                if (plus) \
                    value -= plus[c]; \
                const float norm = (value - shift[c]) * undo[c]; \
                BODY \
            } \
        } \
    } while (0)

#define UNPACK \
    const number channels = given->channels; \
    const float slope = given->slope, steep = 1 / slope; \
    const float *restrict mean = given->mean, *restrict scale = given->scale; \
    const float *restrict gain = given->gain, *restrict shift = given->shift; \
    const float *restrict undo = given->undo

/* With g the gradient before leaky ReLU: for each block the sum of g and of the norm times g,
   (blocks, 2, channels). `behind`, if it is there, takes g. */
void gradient_sums(
    const Given *given, number count, number size, number begin, number end, float *sums, float *behind)
{
    UNPACK;
    for (number block = begin; block < end; block++) {
        const number last = (block + 1) * size < count ? (block + 1) * size : count;
        float *restrict sum = sums + block * 2 * channels, *restrict along = sum + channels;
        for (number row = block * size; row < last; row++) {
            float *restrict to = behind + row * channels;
            if (behind)
                FOR_EACH_CHANNEL(sum[c] += before; along[c] += before * norm; to[c] = before;);
            else
                FOR_EACH_CHANNEL(sum[c] += before; along[c] += before * norm;);
        }
    }
}

/* (g - of_sum - norm * of_norm) * factor, with g as above. */
void differentiate(
    const Given *given, const float *restrict of_sum, const float *restrict of_norm,
    const float *restrict factor, float *slopes, number begin, number end)
{
    UNPACK;
    for (number row = begin; row < end; row++) {
        float *restrict to = slopes + row * channels;
        FOR_EACH_CHANNEL(to[c] = (before - of_sum[c] - norm * of_norm[c]) * factor[c];);
    }
}
