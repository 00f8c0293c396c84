/* Transforms of minimal filtering, F(2, 3) and F(4, 3): from rows of numbers to sums of them. */

/* READ: a map to its values at the points. WRITE: values to outputs; SPREAD is its transpose.
   KERNEL: a kernel to its values; GATHER is its transpose. */
enum { SAME, READ2, READ4, WRITE2, WRITE4, SPREAD2, SPREAD4, KERNEL2, KERNEL4, GATHER2, GATHER4 };
static const int ROWS_FROM[] = {1, 4, 6, 4, 6, 2, 4, 3, 3, 4, 6};
static const int ROWS_TO[] = {1, 4, 6, 2, 4, 4, 6, 4, 6, 3, 3};
enum { MOST = 6, TAPS = 3 };

/* The points are 0, 1, -1 and infinity for F(2, 3); 0, A, -A, B, -B and infinity for F(4, 3). With
   the usual 1 and 2 the largest error of three nested F(4, 3) is ten times as large (measured). A
   kernel's value at a point is divided by the product of the point's distances to the others. */
#define A 0.625f
#define B 1.5f
#define AA (A * A)
#define BB (B * B)
#define OVER_0 (1 / (AA * BB))
#define OVER_A (1 / (2 * AA * (AA - BB)))
#define OVER_B (1 / (2 * BB * (BB - AA)))

INLINE vec times(float a, vec b) { return splat(a) * b; }
INLINE vec add(vec c, float a, vec b) { return plus(c, splat(a), b); }

INLINE void transformed(const int kind, const vec *x, vec *y)
{
    switch (kind) {
    case SAME: {
        y[0] = x[0];
        break;
    }
    case READ2: {
        y[0] = x[2] - x[0];
        y[1] = x[2] + x[1];
        y[2] = x[2] - x[1];
        y[3] = x[3] - x[1];
        break;
    }
    case READ4: {
        const vec even_a = add(x[4], -BB, x[2]), odd_a = add(x[3], -BB, x[1]);
        const vec even_b = add(x[4], -AA, x[2]), odd_b = add(x[3], -AA, x[1]);
        y[0] = add(add(x[4], -(AA + BB), x[2]), AA * BB, x[0]);
        y[1] = add(even_a, A, odd_a);
        y[2] = add(even_a, -A, odd_a);
        y[3] = add(even_b, B, odd_b);
        y[4] = add(even_b, -B, odd_b);
        y[5] = add(add(x[5], -(AA + BB), x[3]), AA * BB, x[1]);
        break;
    }
    case WRITE2: {
        y[0] = x[0] + x[1] + x[2];
        y[1] = x[1] - x[2] + x[3];
        break;
    }
    case WRITE4: {
        const vec even_a = x[1] + x[2], odd_a = x[1] - x[2];
        const vec even_b = x[3] + x[4], odd_b = x[3] - x[4];
        y[0] = x[0] + even_a + even_b;
        y[1] = add(times(A, odd_a), B, odd_b);
        y[2] = add(times(AA, even_a), BB, even_b);
        y[3] = add(add(x[5], A * AA, odd_a), B * BB, odd_b);
        break;
    }
    case SPREAD2: {
        y[0] = x[0];
        y[1] = x[0] + x[1];
        y[2] = x[0] - x[1];
        y[3] = x[1];
        break;
    }
    case SPREAD4: {
        const vec even_a = add(x[0], AA, x[2]), odd_a = add(x[1], AA, x[3]);
        const vec even_b = add(x[0], BB, x[2]), odd_b = add(x[1], BB, x[3]);
        y[0] = x[0];
        y[1] = add(even_a, A, odd_a);
        y[2] = add(even_a, -A, odd_a);
        y[3] = add(even_b, B, odd_b);
        y[4] = add(even_b, -B, odd_b);
        y[5] = x[3];
        break;
    }
    case KERNEL2: {
        const vec even = x[0] + x[2];
        y[0] = -x[0];
        y[1] = times(0.5f, even + x[1]);
        y[2] = times(0.5f, even - x[1]);
        y[3] = x[2];
        break;
    }
    case KERNEL4: {
        const vec even_a = times(OVER_A, add(x[0], AA, x[2]));
        const vec even_b = times(OVER_B, add(x[0], BB, x[2]));
        y[0] = times(OVER_0, x[0]);
        y[1] = add(even_a, OVER_A * A, x[1]);
        y[2] = add(even_a, -OVER_A * A, x[1]);
        y[3] = add(even_b, OVER_B * B, x[1]);
        y[4] = add(even_b, -OVER_B * B, x[1]);
        y[5] = x[2];
        break;
    }
    case GATHER2: {
        const vec even = times(0.5f, x[1] + x[2]);
        y[0] = even - x[0];
        y[1] = times(0.5f, x[1] - x[2]);
        y[2] = even + x[3];
        break;
    }
    case GATHER4: {
        const vec even_a = times(OVER_A, x[1] + x[2]), even_b = times(OVER_B, x[3] + x[4]);
        y[0] = add(even_a + even_b, OVER_0, x[0]);
        y[1] = add(times(OVER_A * A, x[1] - x[2]), OVER_B * B, x[3] - x[4]);
        y[2] = add(add(x[5], AA, even_a), BB, even_b);
        break;
    }
    }
}

/* Rows that lie `from_apart` floats apart, and rows of their sums that lie `to_apart` apart; all of
   that `repeat` times, each `from_step` and `to_step` later. They may be the same rows. */
typedef struct {
    const float *from;
    float *to;
    number from_apart, to_apart, repeat, from_step, to_step;
    const float *added; /* a row to be added to each sum, or NULL */
} Rows;

/* Rows of `count` numbers, whole vectors. The last vector goes first: what it puts beyond a row's
   end is put right afterwards where that is the next row's begin. */
INLINE void transform_kind(const int kind, const int adds, const Rows *rows, number count)
{
    const Rows all = *rows;
    for (number r = 0; r < all.repeat; r++) {
        const float *even = all.from + r * all.from_step + count, *odd = even + all.from_apart;
        float *to = all.to + r * all.to_step + count, *next = to + all.to_apart;
        for (number at = count - LANES; at >= 0; at -= LANES) {
            vec x[MOST], y[MOST];
            even -= LANES, odd -= LANES, to -= LANES, next -= LANES;
            for (int row = 0; row < ROWS_FROM[kind]; row++)
                x[row] = load((row % 2 ? odd : even) + row / 2 * 2 * all.from_apart);
            transformed(kind, x, y);
            for (int row = 0; row < ROWS_TO[kind]; row++) {
                if (adds)
                    y[row] += load(all.added + at);
                store((row % 2 ? next : to) + row / 2 * 2 * all.to_apart, y[row]);
            }
        }
    }
}

#define CASE(KIND) \
    case KIND: transform_kind(KIND, 0, rows, count); break;
#define CASE_ADDED(KIND) \
    case KIND: \
        if (rows->added) \
            transform_kind(KIND, 1, rows, count); \
        else \
            transform_kind(KIND, 0, rows, count); \
        break;
static __attribute__((noinline)) void transform(int kind, const Rows *rows, number count)
{
    switch (kind) {
        CASE_ADDED(SAME)
        CASE(READ2)
        CASE(READ4)
        CASE_ADDED(WRITE2)
        CASE_ADDED(WRITE4)
        CASE(SPREAD2)
        CASE(SPREAD4)
        CASE(KERNEL2)
        CASE(KERNEL4)
        CASE(GATHER2)
        CASE(GATHER4)
    }
}

/* The same once, of rows of any size, beyond which nothing is read or written. */
static void transform_exactly(int kind, const Rows *rows, number count)
{
    const number whole = count / LANES * LANES, rest = (count - whole) * sizeof(float);
    float from[MOST * LANES] = {0}, to[MOST * LANES], added[LANES] = {0};
    const Rows last = {from, to, LANES, LANES, 1, 0, 0, rows->added ? added : NULL};
    transform(kind, rows, whole);
    if (!rest)
        return;
    for (int row = 0; row < ROWS_FROM[kind]; row++)
        memcpy(from + row * LANES, rows->from + row * rows->from_apart + whole, rest);
    if (rows->added)
        memcpy(added, rows->added + whole, rest);
    transform(kind, &last, LANES);
    for (int row = 0; row < ROWS_TO[kind]; row++)
        memcpy(rows->to + row * rows->to_apart + whole, to + row * LANES, rest);
}
