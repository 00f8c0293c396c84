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

/* leaky_relu((rows - mean) * scale + added), a slope of 1 rectifying nothing. */
void normalize(
    const float *rows, const float *added, number channels, const float *restrict mean,
    const float *restrict scale, float slope, float *result, number begin, number end)
{
    for (number row = begin; row < end; row++) {
        const float *from = rows + row * channels;
        float *to = result + row * channels;
#pragma GCC ivdep
        for (number c = 0; c < channels; c++) {
            float value = (from[c] - mean[c]) * scale[c];
            if (added)
                value += added[row * channels + c];
            to[c] = value > 0 ? value : value * slope;
        }
    }
}

/* The gradient g before leaky ReLU, told by the sign of the result, and the norm itself, undone from
   the result: for each block the sum of g and of the norm times g, (blocks, 2, channels). `behind`, if
   it is there, takes g. The gradient's rows lie `pitch` apart. */
void gradient_sums(
    const float *result, const float *gradient, number pitch, const float *added, float slope, number count,
    number channels, number size, number begin, number end, float *sums, float *behind)
{
    const float undo = 1 / slope;
    for (number block = begin; block < end; block++) {
        const number last = (block + 1) * size < count ? (block + 1) * size : count;
        float *restrict sum = sums + block * 2 * channels, *restrict along = sum + channels;
        for (number row = block * size; row < last; row++) {
            const float *y = result + row * channels, *g = gradient + row * pitch;
#pragma GCC ivdep
            for (number c = 0; c < channels; c++) {
                const float before = y[c] > 0 ? g[c] : g[c] * slope;
                float norm = y[c] > 0 ? y[c] : y[c] * undo;
                if (added)
                    norm -= added[row * channels + c];
                sum[c] += before;
                along[c] += before * norm;
                if (behind)
                    behind[row * channels + c] = before;
            }
        }
    }
}

/* (g - shift - norm * along) * scale, with g and the norm as above. */
void differentiate(
    const float *result, const float *gradient, number pitch, const float *added, float slope,
    number channels, const float *restrict shift, const float *restrict along, const float *restrict scale,
    float *slopes, number begin, number end)
{
    const float undo = 1 / slope;
    for (number row = begin; row < end; row++) {
        const float *y = result + row * channels, *g = gradient + row * pitch;
#pragma GCC ivdep
        for (number c = 0; c < channels; c++) {
            const float before = y[c] > 0 ? g[c] : g[c] * slope;
            float norm = y[c] > 0 ? y[c] : y[c] * undo;
            if (added)
                norm -= added[row * channels + c];
            slopes[row * channels + c] = (before - shift[c] - norm * along[c]) * scale[c];
        }
    }
}
