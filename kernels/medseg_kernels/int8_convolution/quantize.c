/* Floats as unsigned bytes about 128, a map at a time. */

#include <stdint.h>

/* The bits of the largest absolute value of `count` floats; as integers they grow with the value,
   infinity and what is no number last. */
uint32_t largest(const uint32_t *bits, int64_t begin, int64_t end)
{
    uint32_t found = 0;
    for (int64_t n = begin; n < end; n++) {
        uint32_t value = bits[n] & 0x7fffffff;
        found = value > found ? value : found;
    }
    return found;
}

/* x * factor, which is from -127 to 127, rounded (a half upward) and 128 added. */
void quantize(const float *x, float factor, unsigned char *result, int64_t begin, int64_t end)
{
    for (int64_t n = begin; n < end; n++)
        result[n] = (unsigned char)(int32_t)(x[n] * factor + 128.5f);
}
