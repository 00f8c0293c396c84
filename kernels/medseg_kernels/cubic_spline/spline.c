/* Cubic B-spline interpolation along one axis of a volume of floats.

   Lines lie side by side in a buffer, so that each step of the recursion along them is done for
   many lines at once. The samples are continued by their first and last. */

#include <stdint.h>
#include <stdlib.h>

#define MOST 128 /* lines at once */
#define FEW 32
#define ROWS 16
#define EDGE 2 /* taps reach so far beyond the samples */

static const float POLE = -0.26794919243112270647f; /* sqrt(3) - 2 */

/* Samples to coefficients, but for the factor 6 (Unser 1999, eq. 12), beyond both ends constant. */
static inline __attribute__((always_inline)) void filter(float *line, int64_t size, const int w)
{
    float last[MOST];
    for (int l = 0; l < w; l++) {
        last[l] = line[(size - 1) * w + l] / (1 - POLE);
        line[l] /= 1 - POLE;
    }
    for (int64_t x = 1; x < size; x++)
        for (int l = 0; l < w; l++)
            line[x * w + l] += POLE * line[(x - 1) * w + l];
    float *end = line + (size - 1) * w;
    for (int l = 0; l < w; l++)
        end[l] = -POLE * (last[l] / (1 - POLE) + (end[l] - last[l]) / (1 - POLE * POLE));
    for (int64_t x = size - 2; x >= 0; x--)
        for (int l = 0; l < w; l++)
            line[x * w + l] = POLE * (line[(x + 1) * w + l] - line[x * w + l]);
}

/* `lanes` lines (at most w), whose voxels are `step` and whose starts are `apart` floats away. */
static inline __attribute__((always_inline)) void lines(
    const float *in, int64_t size, int64_t step, float *out, int64_t target, int64_t out_step,
    int64_t apart, int64_t out_apart, int lanes, const int64_t *left, const float *weights,
    float *buffer, const int w)
{
    for (int64_t x = 0; x < size; x++) {
        float *to = buffer + (x + EDGE) * w;
        const float *from = in + x * step;
        if (lanes == w && apart == 1)
            for (int l = 0; l < w; l++)
                to[l] = from[l];
        else
            for (int l = 0; l < w; l++)
                to[l] = l < lanes ? from[l * apart] : 0;
    }
    for (int e = 0; e < EDGE; e++)
        for (int l = 0; l < w; l++) {
            buffer[e * w + l] = buffer[EDGE * w + l];
            buffer[(size + EDGE + e) * w + l] = buffer[(size + EDGE - 1) * w + l];
        }
    filter(buffer, size + 2 * EDGE, w);
    for (int64_t y = 0; y < target; y++) {
        const float *from = buffer + (left[y] + EDGE - 1) * w, *t = weights + 4 * y;
        float *to = out + y * out_step;
        float found[MOST];
        for (int l = 0; l < w; l++)
            found[l] = (float)(t[0] * from[l] + t[1] * from[l + w] + t[2] * from[l + 2 * w]
                               + t[3] * from[l + 3 * w]);
        if (lanes == w && out_apart == 1)
            for (int l = 0; l < w; l++)
                to[l] = found[l];
        else
            for (int l = 0; l < lanes; l++)
                to[l * out_apart] = found[l];
    }
}

/* in (before, size, after) to out (before, target, after); 1 where there is no memory. */
int spline_along(const float *in, int64_t before, int64_t size, int64_t after, float *out,
                 int64_t target, const int64_t *left, const float *weights)
{
    float *buffer = malloc(sizeof(float) * MOST * (size + 2 * EDGE));
    if (!buffer)
        return 1;
    const int rows = after == 1;
    const int64_t outer = rows ? 1 : before, inner = rows ? before : after;
    const int64_t step = rows ? 1 : after, apart = rows ? size : 1;
    const int64_t out_apart = rows ? target : 1;
    const int most = rows ? ROWS : inner < MOST ? FEW : MOST;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t first = 0; first < inner; first += most) {
            const int lanes = inner - first < most ? (int)(inner - first) : most;
            const float *from = in + o * size * after + first * apart;
            float *to = out + o * target * after + first * out_apart;
#define GIVEN from, size, step, to, target, step, apart, out_apart, lanes, left, weights, buffer
            if (lanes <= 8)
                lines(GIVEN, 8);
            else if (lanes <= ROWS)
                lines(GIVEN, ROWS);
            else if (lanes <= FEW)
                lines(GIVEN, FEW);
            else
                lines(GIVEN, MOST);
        }
    free(buffer);
    return 0;
}

/* The least and the largest of each slice of in (before, slices, after). */
void bounds(const float *in, int64_t before, int64_t slices, int64_t after, float *low, float *high)
{
    for (int64_t s = 0; s < slices; s++)
        low[s] = high[s] = in[s * after];
    for (int64_t b = 0; b < before; b++, in += slices * after) {
        if (after == 1) {
            for (int64_t s = 0; s < slices; s++) {
                low[s] = in[s] < low[s] ? in[s] : low[s];
                high[s] = in[s] > high[s] ? in[s] : high[s];
            }
            continue;
        }
        for (int64_t s = 0; s < slices; s++) {
            float least[16], most[16];
            const float *row = in + s * after;
            for (int l = 0; l < 16; l++)
                least[l] = low[s], most[l] = high[s];
            int64_t x = 0;
            for (; x + 16 <= after; x += 16)
                for (int l = 0; l < 16; l++) {
                    least[l] = row[x + l] < least[l] ? row[x + l] : least[l];
                    most[l] = row[x + l] > most[l] ? row[x + l] : most[l];
                }
            for (; x < after; x++) {
                least[0] = row[x] < least[0] ? row[x] : least[0];
                most[0] = row[x] > most[0] ? row[x] : most[0];
            }
            for (int l = 0; l < 16; l++) {
                low[s] = least[l] < low[s] ? least[l] : low[s];
                high[s] = most[l] > high[s] ? most[l] : high[s];
            }
        }
    }
}

/* Each slice of out (before, slices, after) kept within its bounds. */
void clamp(float *out, int64_t before, int64_t slices, int64_t after, const float *low,
           const float *high)
{
    for (int64_t b = 0; b < before; b++, out += slices * after) {
        if (after == 1) {
            for (int64_t s = 0; s < slices; s++) {
                float value = out[s] < low[s] ? low[s] : out[s];
                out[s] = value > high[s] ? high[s] : value;
            }
            continue;
        }
        for (int64_t s = 0; s < slices; s++) {
            float *row = out + s * after;
            const float least = low[s], most = high[s];
            for (int64_t x = 0; x < after; x++) {
                float value = row[x] < least ? least : row[x];
                row[x] = value > most ? most : value;
            }
        }
    }
}
