/* The exponential of a vector of floats. */

#pragma once

#include "vectors.h"

/* e^x to two units in the last place, for an x as far out as float can hold the result. */
INLINE vec power(vec x)
{
    static const float terms[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                  1.6666665459e-1f, 5.0000001201e-1f};
    x = smaller(splat(88.7f), larger(splat(-87.3f), x));
    /* Adding 1.5 * 2^23 leaves the nearest integer in the last bits. */
    const vec shifted = plus(splat(12582912.f), x, splat(1.44269504f));
    const vec whole = shifted - 12582912.f;
    vec rest = plus(x, whole, splat(-0.693359375f));
    rest = plus(rest, whole, splat(2.12194440e-4f));
    vec sum = splat(1.9875691500e-4f);
    for (int n = 0; n < 5; n++)
        sum = plus(splat(terms[n]), sum, rest);
    sum = plus(rest + 1.0f, sum, rest * rest);
    return (vec)((integers)sum + ((integers)shifted << 23));
}
