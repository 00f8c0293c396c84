/* Products of matrices, a few rows by a few vectors at a time, summed in registers. */

#include "vectors.h"

/* Rows and vectors of one step: as many sums as there are registers. */
#if defined(__AVX512F__) || defined(__ARM_NEON)
enum { ROWS = 8, BAND = 3 };
#else
enum { ROWS = 4, BAND = 3 };
#endif

/* Either rows of `to` become those of `a` times `b`, whose `depth` rows lie one after the other, and
   each has one of `start` added, all the same where these are not apart; `next` is what is multiplied
   after `b`. Or `to`, whose rows do, gets the transpose of `a` times `b` added, both of `depth` rows.
   There is at least one. */
typedef struct {
    const float *a, *b, *start, *next;
    float *to;
    number depth, a_apart, b_apart, start_apart, to_apart;
} Product;

INLINE void multiply_rows(const int R, const int W, const int turned, const Product *product)
{
    const Product p = *product;
    const number row = turned ? 1 : p.a_apart, next = turned ? p.a_apart : 1;
    const number b_next = turned ? p.b_apart : W * LANES;
    const number to_next = turned ? W * LANES : p.to_apart;
    vec sums[ROWS][BAND];
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++)
            sums[r][w] = load((turned ? p.to + r * to_next : p.start + r * p.start_apart) + w * LANES);
    number d = 0;
    do {
        vec line[BAND];
        for (int w = 0; w < W; w++) {
            line[w] = load(p.b + d * b_next + w * LANES);
            if (!turned)
                __builtin_prefetch(p.next + d * b_next + w * LANES);
        }
        if (turned)
            __builtin_prefetch(p.to + (R * W + d) * LANES);
        for (int r = 0; r < R; r++) {
            const vec each = splat(p.a[r * row + d * next]);
            for (int w = 0; w < W; w++)
                sums[r][w] = plus(sums[r][w], each, line[w]);
        }
    } while (++d < p.depth);
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++)
            store(p.to + r * to_next + w * LANES, sums[r][w]);
}

/* For products that start from nothing. */
static const float ZEROS[BAND * LANES] = {0};

#define ROWS_CASE(R, W, TURNED) \
    case R: \
        multiply_rows(R < ROWS ? R : ROWS, W, TURNED, p); \
        break;
#define OF_WIDTH(NAME, W, TURNED) \
    static void NAME##_##W(number rows, const Product *p) \
    { \
        switch (rows) { \
            ROWS_CASE(1, W, TURNED) \
            ROWS_CASE(2, W, TURNED) \
            ROWS_CASE(3, W, TURNED) \
            ROWS_CASE(4, W, TURNED) \
            ROWS_CASE(5, W, TURNED) \
            ROWS_CASE(6, W, TURNED) \
            ROWS_CASE(7, W, TURNED) \
            ROWS_CASE(8, W, TURNED) \
        } \
    }
OF_WIDTH(multiply, 1, 0)
OF_WIDTH(multiply, 2, 0)
OF_WIDTH(multiply, 3, 0)
OF_WIDTH(add_turned, 1, 1)
OF_WIDTH(add_turned, 2, 1)
OF_WIDTH(add_turned, 3, 1)

/* By the number of vectors. */
typedef void Multiply(number rows, const Product *p);
static Multiply *const MULTIPLY[] = {NULL, multiply_1, multiply_2, multiply_3};
static Multiply *const ADD_TURNED[] = {NULL, add_turned_1, add_turned_2, add_turned_3};

/* So many vectors side by side are multiplied at once, of all there are. */
static number band(number vectors)
{
    return vectors > 4 || vectors == BAND ? BAND : least(vectors, 2);
}
