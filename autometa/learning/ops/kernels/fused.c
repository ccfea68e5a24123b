/* Normalisation, ReLU and pooling of all images' maps: see maps.h for symbols and formulas. Compiled for REAL = float and
   REAL = double. Maps are whole tensors, [M][H][W][C] or, pooled, [M][H/f][W/f][C]. */

#include "maps.h"

/* `partial` holds 2 M C numbers. */
void moments(const Shape *s, const REAL *z, REAL *partial, REAL *mean, REAL *var) {
    UNPACK;
    IMAGES
    for (long m = 0; m < M; m++)
        if (gives(s, m)) image_moments(s, z + m * H * W * C, partial + 2 * m * C, partial + (2 * m + 1) * C);
    all_moments(s, partial, mean, var);
}

void forward(const Shape *s, const REAL *z, const REAL *mean, const REAL *scale, const REAL *beta, REAL *y,
             uint8_t *place) {
    UNPACK;
    const long pooled = Hf * Wf * C;
    IMAGES
    for (long m = 0; m < M; m++) {
        const long t = of_task(s, m);
        image_forward(s, z + m * H * W * C, mean + t, scale + t, beta, y + m * pooled, place ? place + m * pooled : 0);
    }
}

/* `partial` holds 2 M C numbers. */
void sums(const Shape *s, const REAL *z, const REAL *mean, const REAL *r, const REAL *gy, const uint8_t *place,
          REAL *partial, REAL *sum_g, REAL *sum_gx) {
    UNPACK;
    const long pooled = Hf * Wf * C;
    IMAGES
    for (long m = 0; m < M; m++) {
        REAL *of = partial + 2 * m * C;
        image_sums(s, z + m * H * W * C, mean + of_task(s, m), gy + m * pooled, place + m * pooled, of, of + C);
    }
    all_sums(s, partial, r, sum_g, sum_gx);
}

void backward(const Shape *s, const REAL *z, const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy,
              const uint8_t *place, const REAL *sum_g, const REAL *sum_gx, REAL *gz) {
    UNPACK;
    const long pooled = Hf * Wf * C;
    IMAGES
    for (long m = 0; m < M; m++) {
        const long at = m * H * W * C, from = m * pooled;
        image_backward(s, m, z + at, mean, r, gamma, gy + from, place + from, sum_g, sum_gx, gz + at, W * C);
    }
}

/* `partial` holds 3 M C numbers, `sums` 3 T C. */
void twice(const Shape *s, const REAL *z, const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy,
           const uint8_t *place, const REAL *sum_g, const REAL *sum_gx, const REAL *wz, const REAL *wg, const REAL *wb,
           REAL *partial, REAL *sums, REAL *dz, REAL *dgy, REAL *dgamma) {
    UNPACK;
    const long pooled = Hf * Wf * C;
    IMAGES
    for (long m = 0; m < M; m++) {
        const long at = m * H * W * C, from = m * pooled;
        REAL *of = partial + 3 * m * C;
        image_twice_sums(s, m, z + at, mean, gy + from, place + from, wz + at, of, of + C, of + 2 * C);
    }
    all_twice_sums(s, partial, r, sum_g, sum_gx, sums, dgamma);
    IMAGES
    for (long m = 0; m < M; m++) {
        const long at = m * H * W * C, from = m * pooled;
        image_twice(s, m, z + at, mean, r, gamma, gy + from, place + from, sum_g, sum_gx, wz + at, wg, wb, sums, dz + at,
                    W * C, dgy + from);
    }
}
