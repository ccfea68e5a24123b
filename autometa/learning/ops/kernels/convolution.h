/* Convolution of one image with 3 x 3 filters and zeros around it, and the gradient in the filters.

   Images are x[H][W][D], maps z[H][W][C], filters f[3][3][D][C]; a padded image has a row of zeros above and below and a
   pixel of zeros at both sides of each row. The last dimension of what is written must be a multiple of LANES.

   A few pixels' sums stay in registers while the filters pass by: 0.8 to 0.9 of what two multiply-adds a cycle make. */

#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
/* Pixels at once, and vectors of filters for their gradient: as many as there are registers for. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define PIXELS 8
#define VECTORS 2
#else
#define PIXELS 6
#define VECTORS 1
#endif
#define LANES ((long)(BYTES / sizeof(REAL)))
/* Unrolled before arrays are looked at, since those whose indices are numbers alone live in registers. */
#define EACH(i, count) _Pragma("GCC unroll 16") for (long i = 0; i < count; i++)
#define INLINED static inline __attribute__((always_inline))

typedef REAL Vector __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define AT(p) (*(Vector *)(p))
#define GIVEN(p) (*(const Vector *)(p))

static inline void clear_border(long H, long W, long D, REAL *padded) {
    const long row = (W + 2) * D;
    memset(padded, 0, row * sizeof(REAL));
    memset(padded + (H + 1) * row, 0, row * sizeof(REAL));
    for (long h = 1; h <= H; h++)
        for (long d = 0; d < D; d++) padded[h * row + d] = padded[(h + 1) * row - D + d] = 0;
}

static inline void pad(long H, long W, long D, const REAL *restrict x, REAL *restrict padded) {
    for (long h = 0; h < H; h++) memcpy(padded + ((h + 1) * (W + 2) + 1) * D, x + h * W * D, W * D * sizeof(REAL));
}

/* n pixels of a row in `deep` vectors of channels, n and deep known to the compiler. */
INLINED void convolve_pixels(long n, long deep, int add, long row, long D, long C, const REAL *x, const REAL *f, REAL *z) {
    Vector sum[PIXELS][2];
    EACH(j, n)
        EACH(v, deep) sum[j][v] = add ? GIVEN(z + j * C + v * LANES) : (Vector){0};
    for (long k = 0; k < 3; k++, x += row)
        for (long i = 0; i < 3 * D; i++, f += C) /* three neighbours in a row, with all their channels */
            EACH(v, deep) {
                const Vector filter = GIVEN(f + v * LANES);
                EACH(j, n) sum[j][v] += x[j * D + i] * filter;
            }
    EACH(j, n)
        EACH(v, deep) AT(z + j * C + v * LANES) = sum[j][v];
}

#define WITH(number) \
    case number: \
        if (deep == 2) convolve_pixels(number, 2, add, row, D, C, x, f, z); \
        else convolve_pixels(number, 1, add, row, D, C, x, f, z); \
        break
static void convolve_some(long n, long deep, int add, long row, long D, long C, const REAL *x, const REAL *f, REAL *z) {
    switch (n) {
        WITH(1); WITH(2); WITH(3); WITH(4); WITH(5); WITH(6);
#if PIXELS > 6
        WITH(7); WITH(8);
#endif
    }
}

/* z of a padded image; with `add`, added to what z is. */
static inline void convolve(long H, long W, long D, long C, const REAL *padded, const REAL *f, int add, REAL *z) {
    const long row = (W + 2) * D, parts = (W + PIXELS - 1) / PIXELS, n = (W + parts - 1) / parts;
    for (long h = 0; h < H; h++)
        for (long c = 0; c < C; c += 2 * LANES)
            for (long done = 0; done < W; done += n) {
                /* The last few begin where they fill the row; those that are made twice are the same, but not added to. */
                const long left = W - done, w = add || left >= n ? done : W - n;
                convolve_some(left < n && add ? left : n, C - c > LANES ? 2 : 1, add, row, D, C, padded + h * row + w * D,
                              f + c, z + (h * W + w) * C + c);
            }
}

INLINED void add_filter_gradient(long vectors, long H, long W, long D, long C, const REAL *x, const REAL *gz, REAL *gf) {
    const long row = (W + 2) * D;
    Vector sum[9][VECTORS];
    EACH(k, 9)
        EACH(v, vectors) sum[k][v] = (Vector){0};
    for (long h = 0; h < H; h++) {
        const REAL *from = x + h * row, *g = gz + ((h + 1) * (W + 2) + 1) * C;
        for (long w = 0; w < W; w++, from += D, g += C)
            EACH(v, vectors) {
                const Vector of = GIVEN(g + v * LANES);
                EACH(k, 9) sum[k][v] += from[k / 3 * row + k % 3 * D] * of;
            }
    }
    EACH(k, 9)
        EACH(v, vectors) AT(gf + k * D * C + v * LANES) += sum[k][v];
}

/* Add to gf[3][3][D][C] the gradient in the filters, from a padded image and the padded gradient in its maps. */
static inline void filter_gradient(long H, long W, long D, long C, const REAL *padded, const REAL *gz, REAL *gf) {
    for (long d = 0; d < D; d++)
        for (long c = 0; c < C;) {
            const long vectors = C - c >= VECTORS * LANES ? VECTORS : 1;
            if (vectors == VECTORS) add_filter_gradient(VECTORS, H, W, D, C, padded + d, gz + c, gf + d * C + c);
            else add_filter_gradient(1, H, W, D, C, padded + d, gz + c, gf + d * C + c);
            c += vectors * LANES;
        }
}
