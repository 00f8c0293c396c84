/* What a call is given, and what a thread works on it with. */

#include <stdint.h>

/* Rows of a tile, voxels of a row, and voxels of a tile. */
enum { ROWS = 8, ROW = 512, TILE = 1 << 15 };
/* Source voxels of a box, and logits of a box where they are made for it; fewer where boxes have no
   voxels in common, so that a core's cache holds them. */
enum { BOX = 1 << 18, MADE = 1 << 21, MADE_ALONE = 1 << 17 };
/* Source voxels whose classes are compared at a time. */
enum { RUN = 2048 };
/* Classes and voxels whose logits are summed at a time, in registers. */
#if defined(__AVX512F__)
enum { TALL = 6, WIDE = 64 };
#else
enum { TALL = 6, WIDE = 16 };
#endif
/* No label: of more than 1 << 15 classes there is no call. */
#define NONE 0xFFFF

/* Numbers (channels, i, j, k) that lie `by` apart. First they are divided by `counts` (i, j, k), if
   there are any. They are logits, or, if there is a `weight` (classes, channels), it makes logits
   of them, with a `bias` (classes). */
typedef struct {
    const float *values, *counts;
    int64_t by[4], counts_by[3];
    int64_t channels, classes;
    const float *weight, *bias;
    int64_t sides[3], targets[3];
    const int64_t *left[3];
    const float *beyond[3];
    const int32_t *regions; /* the value of each; NULL where the largest class is asked for */
    void *labels;
    int64_t wide; /* bytes of a label: 1 or 2 */
} call;

/* Where target voxels of an axis lie: after source voxel left, beyond of the way to the next. */
typedef struct {
    const int64_t *left;
    const float *beyond;
    int64_t side;
} axis;

/* Target voxels of an axis, and the source voxels that they lie between. */
typedef struct {
    int64_t low, high, first, last;
} part;

/* One number of each source voxel; along k they follow each other. */
typedef struct {
    const float *values;
    int64_t plane, row; /* distances */
} field;

/* Sixteen target voxels along k and the 32 source voxels from base on that they lie between. */
typedef struct {
    int32_t near[16], far[16];
    float here[16], there[16];
    int64_t base;
    uint32_t exist; /* a bit for each of the 32 */
} group;

typedef struct {
    const call *given;
    axis at[3];
    int moves;       /* whether any target voxel lies between two source voxels */
    int is_made;     /* whether logits are made box by box */
    int is_fused;    /* whether winners come of the means, and not even a box of logits is held */
    int64_t room[3]; /* source voxels of a box along each axis */
    part box[3];
    const float *logits; /* of the box */
    int64_t by[3];       /* from class to class, plane to plane, row to row */
    uint16_t *winner;    /* of each source voxel of the box */
    float *second;       /* the second largest logit there */
    float *made, *means, *packed;
    uint32_t largest; /* size of a mean, as bits: those of what is no number are larger still */
    int64_t tiles, dense; /* of the box: decided, and by comparing all classes everywhere */
    int64_t unasked;      /* so many boxes to come are not asked for their winners */
    /* Along k: the source voxels around each target voxel, from the box on, and their shares. */
    int32_t near[ROW], far[ROW];
    float here[ROW], there[ROW];
    group groups[ROW / 16];
    int is_straight; /* target voxels are source voxels that follow each other */
    int is_grouped;  /* the groups hold */
    part i, j; /* of the tile, whose part along k is the box's */
    int64_t ahead; /* distance to the numbers that are mixed next */
    uint16_t *found;
    uint8_t *seen;
    float best[TILE];
    uint16_t label[TILE];
    float plane[2][ROWS * ROW]; /* rows mixed along k and j */
    float line[2][ROW];         /* mixed along k */
} work;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static int64_t targets(const part *p) { return p->high - p->low; }
static int64_t sources(const part *p) { return p->last - p->first; }

static int64_t voxels_of_tile(const work *w)
{
    return targets(&w->i) * targets(&w->j) * targets(&w->box[2]);
}

/* The source voxel after that of target voxel n, or the same where n lies right there. */
static inline int64_t far_of(const axis *along, int64_t n)
{
    const int64_t left = along->left[n];
    return left + (along->beyond[n] > 0 && left < along->side - 1);
}

/* Target voxels from low on, `count` at most, that lie between `room` source voxels. */
static part part_from(const axis *along, int64_t low, int64_t end, int64_t count, int64_t room)
{
    part p = {low, low + 1, along->left[low], far_of(along, low) + 1};
    for (; p.high < end && targets(&p) < count; p.high++) {
        const int64_t last = far_of(along, p.high) + 1;
        if (last - p.first > room)
            break;
        p.last = last;
    }
    return p;
}
