/* Normalisation, ReLU and max pooling of one image's feature maps in one pass, with first and second derivatives.

   Maps are z[M][H][W][C] (channels last), M images in T tasks of M / T, of which the first S give the statistics; with
   S = 0 the statistics are given. Pooling takes the maximum of f x f pixels, f = 1 or 2; rows and columns that do not
   fill a window are left out, as torch does. With u = gamma (z - mean) r + beta and r = 1 / sqrt(var + epsilon),
   y = max(0, max of u in the window). `place` says which pixel of its window a value came from, and DEAD where ReLU
   gave zero, so that no gradient passes. G below is the gradient in u, zero but at those places.

   Functions named image_... take the maps of image m alone; the others put images' sums together. */

#include <stdint.h>
#include <string.h>

#define DEAD 4
#define SMALLEST 1e-4 /* (a hundredth)^2 */
#define IMAGES _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")
#define CHANNELS _Pragma("GCC ivdep") for (long c = 0; c < C; c++)

/* n: how many numbers gave each mean and variance, S H W where these are of the support images at hand. D: channels of
   the images that a convolution makes these maps of. */
typedef struct { long M, H, W, C, T, S, f, n, D, threads; } Shape;

#define UNPACK \
    const long M = s->M, H = s->H, W = s->W, C = s->C, T = s->T, S = s->S, f = s->f, threads = s->threads; \
    const long I = M / T, Hf = H / f, Wf = W / f, half = f - 1; /* a shift: division takes longer than the rest */ \
    (void)M, (void)H, (void)W, (void)T, (void)S, (void)I, (void)Hf, (void)Wf, (void)half, (void)threads

/* The pixels of window (h, w), as p0 to p3; with f = 1 all are the same one. */
#define WINDOW(p, of) \
    const REAL *p##0 = of + (h * f * W + w * f) * C; \
    const REAL *p##1 = p##0 + (f - 1) * C, *p##2 = p##0 + (f - 1) * W * C, *p##3 = p##2 + (f - 1) * C

/* Whether image m is one of those that give its task's statistics; and where in [T][C] these are. */
static inline int gives(const Shape *s, long m) { return m % (s->M / s->T) < s->S; }
static inline long of_task(const Shape *s, long m) { return m / (s->M / s->T) * s->C; }

/* An image's mean [C] and sum of squared distances from it. */
static inline void image_moments(const Shape *s, const REAL *z, REAL *restrict mean, REAL *restrict square) {
    UNPACK;
    const long P = H * W;
    REAL sum[C], squares[C]; /* gcc keeps in registers what nobody else can see */
    CHANNELS sum[c] = squares[c] = 0;
    for (long p = 0; p < P; p++) CHANNELS sum[c] += z[p * C + c];
    CHANNELS sum[c] /= P;
    for (long p = 0; p < P; p++)
        CHANNELS {
            REAL d = z[p * C + c] - sum[c];
            squares[c] += d * d;
        }
    CHANNELS mean[c] = sum[c], square[c] = squares[c];
}

/* Mean and variance [T][C] from what `image_moments` left in partial[M][2][C] for the images that give them. */
static inline void all_moments(const Shape *s, const REAL *partial, REAL *mean, REAL *var) {
    UNPACK;
    const long P = H * W;
    for (long t = 0; t < T; t++)
        for (long c = 0; c < C; c++) {
            const REAL *of = partial + t * I * 2 * C + c;
            double m = 0, v = 0;
            for (long i = 0; i < S; i++) m += of[2 * i * C];
            m /= S;
            for (long i = 0; i < S; i++) {
                double d = of[2 * i * C] - m;
                v += of[(2 * i + 1) * C] + P * d * d;
            }
            mean[t * C + c] = m;
            var[t * C + c] = v / (S * P);
        }
}

/* y and place [H/f][W/f][C]; `place` may be null. scale = gamma r. */
static inline void image_forward(const Shape *s, const REAL *z, const REAL *mean, const REAL *scale, const REAL *beta,
                                 REAL *y, uint8_t *place) {
    UNPACK;
    REAL sign[C]; /* the largest of u is the smallest of z where gamma < 0 */
    uint8_t unused[C];
    CHANNELS sign[c] = scale[c] < 0 ? -1 : 1;
    for (long h = 0; h < Hf; h++)
        for (long w = 0; w < Wf; w++) {
            WINDOW(z, z);
            const long at = (h * Wf + w) * C;
            REAL *restrict out = y + at;
            uint8_t *restrict k = place ? place + at : unused;
            CHANNELS {
                REAL best = sign[c] * z0[c], v1 = sign[c] * z1[c], v2 = sign[c] * z2[c], v3 = sign[c] * z3[c];
                uint8_t which = 0;
                which = v1 > best ? 1 : which, best = v1 > best ? v1 : best;
                which = v2 > best ? 2 : which, best = v2 > best ? v2 : best;
                which = v3 > best ? 3 : which, best = v3 > best ? v3 : best;
                REAL u = (sign[c] * best - mean[c]) * scale[c] + beta[c];
                out[c] = u <= 0 ? 0 : u; /* not a number stays so */
                k[c] = u > 0 ? which : DEAD;
            }
        }
}

/* One of four that are all fetched, so that gcc can make vectors of it; where k is DEAD any. */
static inline REAL chosen(int32_t k, REAL a, REAL b, REAL c, REAL d) {
    const REAL above = k & 1 ? b : a, below = k & 1 ? d : c;
    return k & 2 ? below : above;
}

static inline REAL unless_dead(int32_t k, REAL g) { return k == DEAD ? 0 : g; }

/* From the gradient gy in y, the image's sums [C] of G and of G (z - mean). */
static inline void image_sums(const Shape *s, const REAL *z, const REAL *mean, const REAL *gy, const uint8_t *place,
                              REAL *restrict g_of, REAL *restrict gx_of) {
    UNPACK;
    REAL sum[C], product[C];
    CHANNELS sum[c] = product[c] = 0;
    for (long h = 0; h < Hf; h++)
        for (long w = 0; w < Wf; w++) {
            WINDOW(z, z);
            const long at = (h * Wf + w) * C;
            const REAL *g = gy + at;
            const uint8_t *k = place + at;
            CHANNELS {
                REAL from = chosen(k[c], z0[c], z1[c], z2[c], z3[c]), of = unless_dead(k[c], g[c]);
                sum[c] += of;
                product[c] += of * (from - mean[c]);
            }
        }
    CHANNELS g_of[c] = sum[c], gx_of[c] = product[c];
}

/* The same without the maps: where a gradient passes, z - mean is (y - beta) / scale. */
static inline void image_sums_of_output(const Shape *s, const REAL *y, const REAL *scale, const REAL *beta,
                                        const REAL *gy, const uint8_t *place, REAL *restrict g_of, REAL *restrict gx_of) {
    UNPACK;
    REAL sum[C], product[C];
    CHANNELS sum[c] = product[c] = 0;
    for (long at = 0; at < Hf * Wf * C; at += C)
        CHANNELS {
            REAL of = unless_dead(place[at + c], gy[at + c]);
            sum[c] += of;
            product[c] += of * (y[at + c] - beta[c]);
        }
    CHANNELS g_of[c] = sum[c], gx_of[c] = product[c] / scale[c];
}

/* Whether no scale is so small beside beta that the quotient above would lose what a few digits hold. */
static inline int can_divide(const Shape *s, const REAL *gamma, const REAL *beta) {
    for (long c = 0; c < s->C; c++)
        if (!(gamma[c] * gamma[c] > SMALLEST * (1 + beta[c] * beta[c]))) return 0;
    return 1;
}

/* Of each task the sums over all its images of G and of G (z - mean) r, [T][C], from partial[M][2][C]. */
static inline void all_sums(const Shape *s, const REAL *partial, const REAL *r, REAL *sum_g, REAL *sum_gx) {
    UNPACK;
    memset(sum_g, 0, T * C * sizeof(REAL));
    memset(sum_gx, 0, T * C * sizeof(REAL));
    for (long m = 0; m < M; m++) {
        const long t = of_task(s, m);
        CHANNELS sum_g[t + c] += partial[2 * m * C + c];
        CHANNELS sum_gx[t + c] += partial[(2 * m + 1) * C + c] * r[t + c];
    }
}

/* The gradient gz in z of image m, from gy and the sums [T][C]; rows of gz are `pitch` numbers apart. */
static inline void image_backward(const Shape *s, long m, const REAL *z, const REAL *mean, const REAL *r,
                                  const REAL *gamma, const REAL *gy, const uint8_t *place, const REAL *sum_g,
                                  const REAL *sum_gx, REAL *gz, long pitch) {
    UNPACK;
    const REAL n = s->n;
    const long t = of_task(s, m);
    const int counts = gives(s, m);
    REAL a[C], level[C], slope[C]; /* gz = a G - level - slope z */
    CHANNELS {
        a[c] = gamma[c] * r[t + c];
        slope[c] = counts ? a[c] * r[t + c] * sum_gx[t + c] / n : 0;
        level[c] = (counts ? a[c] * sum_g[t + c] / n : 0) - slope[c] * mean[t + c];
    }
    for (long h = 0; h < H; h++)
        for (long w = 0; w < W; w++) {
            const REAL *zi = z + (h * W + w) * C;
            REAL *restrict out = gz + h * pitch + w * C;
            if (h >> half >= Hf || w >> half >= Wf) {
                CHANNELS out[c] = -level[c] - slope[c] * zi[c];
                continue;
            }
            const long at = ((h >> half) * Wf + (w >> half)) * C;
            const REAL *g = gy + at;
            const uint8_t *k = place + at, mine = (h & half) * 2 + (w & half);
            CHANNELS out[c] = (k[c] == mine) * a[c] * g[c] - level[c] - slope[c] * zi[c];
        }
}

/* The second derivative: the gradient of <wz, gz> + <wg, sum of sum_gx> + <wb, sum of sum_g> in z, gy and gamma, where
   gz, sum_g and sum_gx are what the functions above gave.

   With x = (z - mean) r, n the support's pixels, and all means over these: gz = gamma r (G - [mG] - [x mGx]), where what
   is in brackets is for support images alone, mG = sum_g / n and mGx = sum_gx / n. With mw, mwx the means of wz and wz x,
   and Q = sum(wz G) - n mw mG - n mwx mGx:
     in G      gamma r (wz - mw - x mwx) + wg x + wb
     in gamma  r Q
     in x      E = wg G - gamma r (mwx G + [mGx wz]), which reaches z as r (E - [mE] - [x mEx])
     in r      gamma Q, which reaches z as -[gamma Q x r r / n].

   First the image's sums of wz, of wz (z - mean), both zero where it does not give the statistics, and of wz G. */
static inline void image_twice_sums(const Shape *s, long m, const REAL *z, const REAL *mean, const REAL *gy,
                                    const uint8_t *place, const REAL *wz, REAL *restrict w_of, REAL *restrict wx_of,
                                    REAL *restrict wg_of) {
    UNPACK;
    const REAL *mu = mean + of_task(s, m);
    REAL sum[C], product[C], chosen_sum[C];
    CHANNELS sum[c] = product[c] = chosen_sum[c] = 0;
    if (gives(s, m))
        for (long p = 0; p < H * W; p++)
            CHANNELS {
                sum[c] += wz[p * C + c];
                product[c] += wz[p * C + c] * (z[p * C + c] - mu[c]);
            }
    for (long h = 0; h < Hf; h++)
        for (long w = 0; w < Wf; w++) {
            WINDOW(w, wz);
            const long at = (h * Wf + w) * C;
            const REAL *g = gy + at;
            const uint8_t *k = place + at;
            CHANNELS chosen_sum[c] += unless_dead(k[c], g[c]) * chosen(k[c], w0[c], w1[c], w2[c], w3[c]);
        }
    CHANNELS w_of[c] = sum[c], wx_of[c] = product[c], wg_of[c] = chosen_sum[c];
}

/* mw, mwx and Q as sums[3][T][C], and the gradient in gamma, from partial[M][3][C]. */
static inline void all_twice_sums(const Shape *s, const REAL *partial, const REAL *r, const REAL *sum_g,
                                  const REAL *sum_gx, REAL *sums, REAL *dgamma) {
    UNPACK;
    const REAL n = s->n;
    REAL *restrict mw = sums, *restrict mwx = sums + T * C, *restrict q = sums + 2 * T * C;
    memset(sums, 0, 3 * T * C * sizeof(REAL));
    memset(dgamma, 0, C * sizeof(REAL));
    for (long m = 0; m < M; m++) {
        const long t = of_task(s, m);
        CHANNELS mw[t + c] += partial[3 * m * C + c] / n;
        CHANNELS mwx[t + c] += partial[(3 * m + 1) * C + c] * r[t + c] / n;
        CHANNELS q[t + c] += partial[(3 * m + 2) * C + c];
    }
    for (long t = 0; t < T * C; t += C)
        CHANNELS {
            q[t + c] -= mw[t + c] * sum_g[t + c] + mwx[t + c] * sum_gx[t + c];
            dgamma[c] += r[t + c] * q[t + c];
        }
}

/* The gradients in z, its rows `pitch` numbers apart, and in gy, of image m. */
static inline void image_twice(const Shape *s, long m, const REAL *z, const REAL *mean, const REAL *r, const REAL *gamma,
                               const REAL *gy, const uint8_t *place, const REAL *sum_g, const REAL *sum_gx,
                               const REAL *wz, const REAL *wg, const REAL *wb, const REAL *sums, REAL *dz, long pitch,
                               REAL *dgy) {
    UNPACK;
    const REAL n = s->n, *mw = sums, *mwx = sums + T * C, *q = sums + 2 * T * C;
    const long t = of_task(s, m);
    const int counts = gives(s, m);
    /* dz = of_g G + of_w wz - level - slope z, and in G: a wz + steep z + flat */
    REAL of_g[C], of_w[C], level[C], slope[C], a[C], steep[C], flat[C];
    CHANNELS {
        REAL rc = r[t + c], mg = sum_g[t + c] / n, mgx = sum_gx[t + c] / n;
        a[c] = gamma[c] * rc;
        REAL e_g = wg[c] - a[c] * mwx[t + c], e_w = -a[c] * mgx; /* E = e_g G + [e_w wz] */
        REAL me = e_w * mw[t + c] + e_g * mg, mex = e_w * mwx[t + c] + e_g * mgx;
        of_g[c] = rc * e_g;
        of_w[c] = counts ? rc * e_w : 0;
        slope[c] = counts ? rc * rc * (mex + gamma[c] * q[t + c] * rc / n) : 0;
        level[c] = (counts ? rc * me : 0) - slope[c] * mean[t + c];
        steep[c] = of_g[c];
        flat[c] = wb[c] - a[c] * mw[t + c] - steep[c] * mean[t + c];
    }
    for (long h = 0; h < H; h++)
        for (long w = 0; w < W; w++) {
            const REAL *zi = z + (h * W + w) * C, *wi = wz + (h * W + w) * C;
            REAL *restrict out = dz + h * pitch + w * C;
            CHANNELS out[c] = of_w[c] * wi[c] - level[c] - slope[c] * zi[c];
            if (h >> half >= Hf || w >> half >= Wf) continue;
            const long at = ((h >> half) * Wf + (w >> half)) * C;
            const REAL *g = gy + at;
            const uint8_t *k = place + at, mine = (h & half) * 2 + (w & half);
            CHANNELS out[c] += (k[c] == mine) * of_g[c] * g[c];
        }
    for (long h = 0; h < Hf; h++)
        for (long w = 0; w < Wf; w++) {
            WINDOW(z, z);
            WINDOW(w, wz);
            const long at = (h * Wf + w) * C;
            const uint8_t *k = place + at;
            REAL *restrict out = dgy + at;
            CHANNELS {
                REAL zc = chosen(k[c], z0[c], z1[c], z2[c], z3[c]), wc = chosen(k[c], w0[c], w1[c], w2[c], w3[c]);
                out[c] = unless_dead(k[c], a[c] * wc + steep[c] * zc + flat[c]);
            }
        }
}
