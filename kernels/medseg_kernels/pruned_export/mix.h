/* One class at all voxels of a tile: source rows along k, two of them along j, two planes along i. */

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/* How the target voxels of the box lie along k. */
static void lay_out_k(work *w)
{
    const part *k = &w->box[2];
    const axis *along = &w->at[2];
    w->is_straight = w->is_grouped = 1;
    for (int64_t v = 0; v < targets(k); v++) {
        group *g = &w->groups[v / 16];
        w->near[v] = (int32_t)(along->left[k->low + v] - k->first);
        w->far[v] = (int32_t)(far_of(along, k->low + v) - k->first);
        w->there[v] = along->beyond[k->low + v];
        w->here[v] = 1.0f - w->there[v];
        w->is_straight &= w->near[v] == v && w->far[v] == v;
        if (v % 16 == 0) {
            *g = (group){.base = w->near[v]};
            const int64_t exist = sources(k) - g->base;
            g->exist = exist >= 32 ? ~0u : (1u << exist) - 1;
        }
        g->near[v % 16] = w->near[v] - (int32_t)g->base;
        g->far[v % 16] = w->far[v] - (int32_t)g->base;
        g->here[v % 16] = w->here[v];
        g->there[v % 16] = w->there[v];
        w->is_grouped &= g->far[v % 16] < 32;
    }
}

#if defined(__AVX512F__)
/* Sixteen target voxels are a permutation of the 32 source voxels that they lie between. */
static void permute_along_k(const work *w, const float *row, float *restrict out)
{
    for (int64_t v = 0; v < targets(&w->box[2]); v += 16) {
        const group *g = &w->groups[v / 16];
        const float *first = row + g->base;
        const __m512 low = _mm512_maskz_loadu_ps((__mmask16)g->exist, first);
        const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(g->exist >> 16), first + 16);
        const __m512 near = _mm512_permutex2var_ps(low, _mm512_loadu_si512(g->near), high);
        const __m512 far = _mm512_permutex2var_ps(low, _mm512_loadu_si512(g->far), high);
        const __m512 one = _mm512_mul_ps(near, _mm512_loadu_ps(g->here));
        const __m512 other = _mm512_mul_ps(far, _mm512_loadu_ps(g->there));
        _mm512_storeu_ps(out + v, _mm512_add_ps(one, other));
    }
}
#endif

/* A source row at the target voxels along k; where it is not there already, in `out`. */
static const float *along_k(const work *w, const float *row, float *restrict out)
{
    for (int64_t k = 0; k < sources(&w->box[2]) && w->ahead; k += 16)
        __builtin_prefetch(row + w->ahead + k);
    if (w->is_straight)
        return row;
#if defined(__AVX512F__)
    if (w->is_grouped) {
        permute_along_k(w, row, out);
        return out;
    }
#endif
    for (int64_t v = 0; v < targets(&w->box[2]); v++)
        out[v] = row[w->near[v]] * w->here[v] + row[w->far[v]] * w->there[v];
    return out;
}

static void mix_rows(const float *restrict a, const float *restrict b, float t, int64_t n,
                     float *restrict out)
{
    const float s = 1.0f - t;
    for (int64_t v = 0; v < n; v++)
        out[v] = a[v] * s + b[v] * t;
}

/* The tile's rows in one source plane, mixed along k and j; where each lies. */
static void rows_in_plane(work *w, const float *plane, int64_t by_row, float *out,
                          const float **rows)
{
    const axis *along = &w->at[1];
    const float *line[2] = {0, 0};
    int64_t held[2] = {-1, -1};
    for (int64_t b = w->j.low; b < w->j.high; b++, rows++, out += ROW) {
        const int64_t near = along->left[b], far = far_of(along, b);
        if (near == far) {
            *rows = along_k(w, plane + (near - w->j.first) * by_row, out);
            continue;
        }
        for (int64_t row = near; row <= far; row++) {
            const int64_t slot = row & 1;
            if (held[slot] != row)
                line[slot] = along_k(w, plane + (row - w->j.first) * by_row, w->line[slot]);
            held[slot] = row;
        }
        mix_rows(line[near & 1], line[far & 1], along->beyond[b], targets(&w->box[2]), out);
        *rows = out;
    }
}

/* What becomes of a mixed number. The largest so far is kept, and its mark is the label; or the
   label is the mark where the number reaches the largest, or where it is above 0. */
enum task { LARGEST, REACHES, POSITIVE };

#define TAKE(VALUE)                                                                              \
    for (int64_t v = 0; v < n; v++) {                                                            \
        const float x = VALUE;                                                                   \
        const int wins = task == LARGEST ? x > best[v] : task == REACHES ? x >= best[v] : x > 0; \
        label[v] = wins ? mark : label[v];                                                       \
        if (task == LARGEST)                                                                     \
            best[v] = wins ? x : best[v];                                                        \
    }

static inline __attribute__((always_inline)) void take_as(
    enum task task, const float *restrict a, const float *restrict b, float t, int64_t n,
    uint16_t mark, float *restrict best, uint16_t *restrict label)
{
    const float s = 1.0f - t;
    if (b)
        TAKE(a[v] * s + b[v] * t)
    else
        TAKE(a[v])
}

/* A row, or two of them mixed. */
static void take(enum task task, const float *a, const float *b, float t, int64_t n, uint16_t mark,
                 float *best, uint16_t *label)
{
    if (task == LARGEST)
        take_as(LARGEST, a, b, t, n, mark, best, label);
    if (task == REACHES)
        take_as(REACHES, a, b, t, n, mark, best, label);
    if (task == POSITIVE)
        take_as(POSITIVE, a, b, t, n, mark, best, label);
}

/* `of` begins at the tile's first source voxel. */
static void mix_tile(work *w, field of, enum task task, uint16_t mark)
{
    const axis *along = &w->at[0];
    const int64_t n = targets(&w->box[2]), count = targets(&w->j);
    const float *rows[2][ROWS];
    int64_t held[2] = {-1, -1}, place = 0;
    for (int64_t a = w->i.low; a < w->i.high; a++) {
        const int64_t near = along->left[a], far = far_of(along, a);
        for (int64_t p = near; p <= far; p++) {
            const float *plane = of.values + (p - w->i.first) * of.plane;
            if (held[p & 1] != p)
                rows_in_plane(w, plane, of.row, w->plane[p & 1], rows[p & 1]);
            held[p & 1] = p;
        }
        for (int64_t b = 0; b < count; b++, place += n)
            take(task, rows[near & 1][b], near == far ? 0 : rows[far & 1][b], along->beyond[a], n,
                 mark, w->best + place, w->label + place);
    }
}
