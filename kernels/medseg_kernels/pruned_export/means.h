/* The logits of a box, made of numbers that are first divided by counts. */

#if defined(__FMA__) || defined(__aarch64__)
#define FUSED(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FUSED(a, b, c) ((a) * (b) + (c))
#endif

/* TALL classes side by side: their biases, then their weights channel by channel. */
static void pack(work *w)
{
    const call *c = w->given;
    for (int64_t n = 0; n < up(c->classes, TALL); n++) {
        float *block = w->packed + n / TALL * TALL * (c->channels + 1) + n % TALL;
        const int exists = n < c->classes;
        block[0] = exists ? c->bias[n] : -__builtin_inff();
        for (int64_t f = 0; f < c->channels; f++)
            block[(f + 1) * TALL] = exists ? c->weight[n * c->channels + f] : 0;
    }
}

/* WIDE voxels of TALL classes; `means` lie (channels, pitch). */
static void multiply(const float *restrict block, const float *restrict means, int64_t pitch,
                     int64_t channels, float sum[restrict TALL][WIDE])
{
    float s[TALL][WIDE];
    const float *restrict weight = block + TALL;
    for (int c = 0; c < TALL; c++)
        for (int v = 0; v < WIDE; v++)
            s[c][v] = block[c];
    for (int64_t f = 0; f < channels; f++)
        for (int c = 0; c < TALL; c++)
            for (int v = 0; v < WIDE; v++)
                s[c][v] = FUSED(weight[f * TALL + c], means[f * pitch + v], s[c][v]);
    for (int c = 0; c < TALL; c++)
        for (int v = 0; v < WIDE; v++)
            sum[c][v] = s[c][v];
}

/* A row of one channel divided by its counts; the size of the largest mean, as bits. */
static uint32_t average(const float *restrict values, int64_t by, const float *restrict counts,
                        int64_t counts_by, int64_t n, float *restrict means)
{
    uint32_t largest = 0;
    if (by == 1 && counts && counts_by == 1)
        for (int64_t v = 0; v < n; v++)
            means[v] = values[v] / counts[v];
    else
        for (int64_t v = 0; v < n; v++)
            means[v] = counts ? values[v * by] / counts[v * counts_by] : values[v * by];
    for (int64_t v = 0; v < n; v++) {
        const union { float number; uint32_t bits; } x = {means[v]};
        const uint32_t size = x.bits & 0x7FFFFFFF;
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* The means of source plane p of the box, (channels, pitch). */
static void average_plane(work *w, int64_t p, float *means, int64_t pitch)
{
    const call *c = w->given;
    const int64_t width = sources(&w->box[2]);
    for (int64_t r = 0; r < sources(&w->box[1]); r++) {
        const int64_t at[3] = {w->box[0].first + p, w->box[1].first + r, w->box[2].first};
        const float *values = c->values, *counts = c->counts;
        for (int n = 0; n < 3; n++) {
            values += at[n] * c->by[n + 1];
            counts += counts ? at[n] * c->counts_by[n] : 0;
        }
        for (int64_t f = 0; f < c->channels; f++) {
            const uint32_t size = average(values + f * c->by[0], c->by[3], counts, c->counts_by[2],
                                          width, means + f * pitch + r * width);
            w->largest = size > w->largest ? size : w->largest;
        }
    }
}

/* The logits of source plane p of the box. */
static void logits_of_plane(work *w, int64_t p, int64_t voxels, int64_t pitch)
{
    const call *c = w->given;
    float sum[TALL][WIDE];
    for (int64_t low = 0; low < voxels; low += WIDE)
        for (int64_t first = 0; first < c->classes; first += TALL) {
            const int64_t n = least(WIDE, voxels - low), count = least(TALL, c->classes - first);
            float *out = w->made + first * w->by[0] + p * w->by[1] + low;
            multiply(w->packed + first * (c->channels + 1), w->means + low, pitch, c->channels, sum);
            for (int64_t t = 0; t < count; t++)
                for (int64_t v = 0; v < n; v++)
                    out[t * w->by[0] + v] = sum[t][v];
        }
}

/* The winners of source plane p of the box. */
static void winners_of_plane(work *w, int64_t p, int64_t voxels, int64_t pitch)
{
    const call *c = w->given;
    float sum[TALL][WIDE], best[WIDE];
    int32_t winner[WIDE];
    for (int64_t low = 0; low < voxels; low += WIDE) {
        for (int v = 0; v < WIDE; v++)
            best[v] = -__builtin_inff(), winner[v] = 0;
        for (int32_t first = 0; first < c->classes; first += TALL) {
            multiply(w->packed + first * (c->channels + 1), w->means + low, pitch, c->channels, sum);
            for (int v = 0; v < WIDE; v++)
                for (int32_t t = 0; t < TALL; t++) {
                    const int wins = sum[t][v] > best[v];
                    winner[v] = wins ? first + t : winner[v];
                    best[v] = wins ? sum[t][v] : best[v];
                }
        }
        for (int64_t v = 0; v < least(WIDE, voxels - low); v++)
            w->winner[p * voxels + low + v] = (uint16_t)winner[v];
    }
}

static void make_box(work *w)
{
    const int64_t voxels = sources(&w->box[1]) * sources(&w->box[2]), pitch = up(voxels, WIDE);
    w->logits = w->made;
    w->by[0] = sources(&w->box[0]) * voxels;
    w->by[1] = voxels;
    w->by[2] = sources(&w->box[2]);
    for (int64_t p = 0; p < sources(&w->box[0]); p++) {
        if (!w->given->weight) {
            average_plane(w, p, w->made + p * voxels, w->by[0]);
            continue;
        }
        average_plane(w, p, w->means, pitch);
        if (w->is_fused)
            winners_of_plane(w, p, voxels, pitch);
        else
            logits_of_plane(w, p, voxels, pitch);
    }
}
