/* Normalisation, ReLU and max pooling of feature maps in one pass, with first and second derivatives, on a CPU.

   Maps are z[M][H][W][C] (channels last), M images in T tasks of M / T, of which the first S give the statistics; with
   S = 0 the statistics are given. Pooling takes the maximum of f x f pixels, f = 1 or 2; rows and columns that do not
   fill a window are left out, as torch does. With u = gamma (z - mean) r + beta and r = 1 / sqrt(var + epsilon),
   y = max(0, max of u in the window). `place` says which pixel of its window a value came from, and DEAD where ReLU
   gave zero, so that no gradient passes. G below is the gradient in u, zero but at those places.

   Compiled for REAL = float and REAL = double. */

#include <stdint.h>
#include <string.h>

#define DEAD 4
#define ALIVE(k) ((REAL)((k) != DEAD))
#define IMAGES _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")
#define CHANNELS _Pragma("GCC ivdep") for (long c = 0; c < C; c++)

/* n: how many numbers gave each mean and variance, S H W where these are of the support images at hand. */
typedef struct { long M, H, W, C, T, S, f, n, threads; } Shape;

#define UNPACK \
    const long M = s->M, H = s->H, W = s->W, C = s->C, T = s->T, S = s->S, f = s->f, threads = s->threads; \
    const long I = M / T, Hf = H / f, Wf = W / f, half = f - 1; /* a shift: division takes longer than the rest */ \
    (void)M, (void)H, (void)W, (void)S, (void)I, (void)Hf, (void)Wf, (void)half, (void)threads

/* The pixels of window (h, w) of image m, as p0 to p3; with f = 1 all are the same one. */
#define WINDOW(p, of) \
    const REAL *p##0 = of + ((m * H + h * f) * W + w * f) * C; \
    const REAL *p##1 = p##0 + (f - 1) * C, *p##2 = p##0 + (f - 1) * W * C, *p##3 = p##2 + (f - 1) * C

/* Mean and variance [T][C] of the support images of each task; `partial` holds 2 T S C numbers. */
void moments(const Shape *s, const REAL *z, REAL *partial, REAL *mean, REAL *var) {
    UNPACK;
    const long P = H * W;
    IMAGES
    for (long i = 0; i < T * S; i++) {
        const REAL *zi = z + (i / S * I + i % S) * P * C;
        REAL *restrict sum = partial + 2 * i * C, *restrict square = sum + C;
        memset(sum, 0, 2 * C * sizeof(REAL));
        for (long p = 0; p < P; p++) CHANNELS sum[c] += zi[p * C + c];
        CHANNELS sum[c] /= P;
        for (long p = 0; p < P; p++)
            CHANNELS {
                REAL d = zi[p * C + c] - sum[c];
                square[c] += d * d;
            }
    }
    for (long t = 0; t < T; t++)
        for (long c = 0; c < C; c++) {
            double m = 0, v = 0;
            for (long i = t * S; i < (t + 1) * S; i++) m += partial[2 * i * C + c];
            m /= S;
            for (long i = t * S; i < (t + 1) * S; i++) {
                double d = partial[2 * i * C + c] - m;
                v += partial[(2 * i + 1) * C + c] + P * d * d;
            }
            mean[t * C + c] = m;
            var[t * C + c] = v / (S * P);
        }
}

/* y and place [M][H/f][W/f][C]; `place` may be null. scale = gamma r, [T][C]. */
void forward(const Shape *s, const REAL *z, const REAL *mean, const REAL *scale, const REAL *beta, REAL *y,
             uint8_t *place) {
    UNPACK;
    IMAGES
    for (long m = 0; m < M; m++) {
        const REAL *mu = mean + m / I * C, *a = scale + m / I * C;
        REAL sign[C]; /* the largest of u is the smallest of z where gamma < 0 */
        uint8_t unused[C];
        CHANNELS sign[c] = a[c] < 0 ? -1 : 1;
        for (long h = 0; h < Hf; h++)
            for (long w = 0; w < Wf; w++) {
                WINDOW(z, z);
                const long at = ((m * Hf + h) * Wf + w) * C;
                REAL *restrict out = y + at;
                uint8_t *restrict k = place ? place + at : unused;
                CHANNELS {
                    REAL best = sign[c] * z0[c], v1 = sign[c] * z1[c], v2 = sign[c] * z2[c], v3 = sign[c] * z3[c];
                    uint8_t which = 0;
                    which = v1 > best ? 1 : which, best = v1 > best ? v1 : best;
                    which = v2 > best ? 2 : which, best = v2 > best ? v2 : best;
                    which = v3 > best ? 3 : which, best = v3 > best ? v3 : best;
                    REAL u = (sign[c] * best - mu[c]) * a[c] + beta[c];
                    out[c] = u <= 0 ? 0 : u; /* not a number stays so */
                    k[c] = u > 0 ? which : DEAD;
                }
            }
    }
}

/* Sums of products with 0 or 1, since gcc makes no vectors of branches; zero where k is DEAD. */
static inline REAL chosen(int32_t k, REAL a, REAL b, REAL c, REAL d) {
    return (k == 0) * a + (k == 1) * b + (k == 2) * c + (k == 3) * d;
}

/* From the gradient gy in y, of each task the sums over all its images of G and of G (z - mean) r, [T][C]; `partial`
   holds 2 M C numbers. */
void sums(const Shape *s, const REAL *z, const REAL *mean, const REAL *r, const REAL *gy, const uint8_t *place,
          REAL *partial, REAL *sum_g, REAL *sum_gx) {
    UNPACK;
    IMAGES
    for (long m = 0; m < M; m++) {
        const REAL *mu = mean + m / I * C;
        REAL *restrict g_of = partial + 2 * m * C, *restrict gx_of = g_of + C;
        memset(g_of, 0, 2 * C * sizeof(REAL));
        for (long h = 0; h < Hf; h++)
            for (long w = 0; w < Wf; w++) {
                WINDOW(z, z);
                const long at = ((m * Hf + h) * Wf + w) * C;
                const REAL *g = gy + at;
                const uint8_t *k = place + at;
                CHANNELS {
                    REAL from = chosen(k[c], z0[c], z1[c], z2[c], z3[c]), of = ALIVE(k[c]) * g[c];
                    g_of[c] += of;
                    gx_of[c] += of * (from - mu[c]);
                }
            }
    }
    memset(sum_g, 0, T * C * sizeof(REAL));
    memset(sum_gx, 0, T * C * sizeof(REAL));
    for (long m = 0; m < M; m++) {
        const long t = m / I * C;
        CHANNELS sum_g[t + c] += partial[2 * m * C + c];
        CHANNELS sum_gx[t + c] += partial[(2 * m + 1) * C + c] * r[t + c];
    }
}

/* The gradient gz in z, from gy and its `sums`; n is how many numbers gave each mean. */
void backward(const Shape *s, const REAL *z, const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy,
              const uint8_t *place, const REAL *sum_g, const REAL *sum_gx, REAL *gz) {
    UNPACK;
    const REAL n = s->n;
    IMAGES
    for (long m = 0; m < M; m++) {
        const long t = m / I * C;
        const int gives = m % I < S;
        REAL a[C], level[C], slope[C]; /* gz = a G - level - slope z */
        CHANNELS {
            a[c] = gamma[c] * r[t + c];
            slope[c] = gives ? a[c] * r[t + c] * sum_gx[t + c] / n : 0;
            level[c] = (gives ? a[c] * sum_g[t + c] / n : 0) - slope[c] * mean[t + c];
        }
        for (long h = 0; h < H; h++)
            for (long w = 0; w < W; w++) {
                const long here = ((m * H + h) * W + w) * C;
                const REAL *zi = z + here;
                REAL *restrict out = gz + here;
                CHANNELS out[c] = -level[c] - slope[c] * zi[c];
                if (h >> half >= Hf || w >> half >= Wf) continue;
                const long at = ((m * Hf + (h >> half)) * Wf + (w >> half)) * C;
                const REAL *g = gy + at;
                const uint8_t *k = place + at, mine = (h & half) * 2 + (w & half);
                CHANNELS out[c] += (k[c] == mine) * a[c] * g[c];
            }
    }
}

/* The gradient of <wz, gz> + <wg, sum of sum_gx> + <wb, sum of sum_g> in z, gy and gamma, where gz, sum_g and sum_gx are
   what `backward` and `sums` gave; `partial` holds 3 M C numbers, `sums` 3 T C.

   With x = (z - mean) r, n the support's pixels, and all means over these: gz = gamma r (G - [mG] - [x mGx]), where what
   is in brackets is for support images alone, mG = sum_g / n and mGx = sum_gx / n. With mw, mwx the means of wz and wz x,
   and Q = sum(wz G) - n mw mG - n mwx mGx:
     in G      gamma r (wz - mw - x mwx) + wg x + wb
     in gamma  r Q
     in x      E = wg G - gamma r (mwx G + [mGx wz]), which reaches z as r (E - [mE] - [x mEx])
     in r      gamma Q, which reaches z as -[gamma Q x r r / n].  */
void twice(const Shape *s, const REAL *z, const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy,
           const uint8_t *place, const REAL *sum_g, const REAL *sum_gx, const REAL *wz, const REAL *wg, const REAL *wb,
           REAL *partial, REAL *sums, REAL *dz, REAL *dgy, REAL *dgamma) {
    UNPACK;
    IMAGES
    for (long m = 0; m < M; m++) {
        const REAL *mu = mean + m / I * C;
        REAL *restrict w_of = partial + 3 * m * C, *restrict wx_of = w_of + C, *restrict wg_of = wx_of + C;
        memset(w_of, 0, 3 * C * sizeof(REAL));
        if (m % I < S)
            for (long p = m * H * W; p < (m + 1) * H * W; p++)
                CHANNELS {
                    w_of[c] += wz[p * C + c];
                    wx_of[c] += wz[p * C + c] * (z[p * C + c] - mu[c]);
                }
        for (long h = 0; h < Hf; h++)
            for (long w = 0; w < Wf; w++) {
                WINDOW(w, wz);
                const long at = ((m * Hf + h) * Wf + w) * C;
                const REAL *g = gy + at;
                const uint8_t *k = place + at;
                CHANNELS {
                    wg_of[c] += ALIVE(k[c]) * g[c] * chosen(k[c], w0[c], w1[c], w2[c], w3[c]);
                }
            }
    }
    const REAL n = s->n;
    REAL *restrict mw = sums, *restrict mwx = sums + T * C, *restrict q = sums + 2 * T * C;
    memset(sums, 0, 3 * T * C * sizeof(REAL));
    memset(dgamma, 0, C * sizeof(REAL));
    for (long m = 0; m < M; m++) {
        const long t = m / I * C;
        CHANNELS mw[t + c] += partial[3 * m * C + c] / n;
        CHANNELS mwx[t + c] += partial[(3 * m + 1) * C + c] * r[t + c] / n;
        CHANNELS q[t + c] += partial[(3 * m + 2) * C + c];
    }
    for (long t = 0; t < T * C; t += C)
        CHANNELS {
            q[t + c] -= mw[t + c] * sum_g[t + c] + mwx[t + c] * sum_gx[t + c];
            dgamma[c] += r[t + c] * q[t + c];
        }
    IMAGES
    for (long m = 0; m < M; m++) {
        const long t = m / I * C;
        const int gives = m % I < S;
        /* dz = of_g G + of_w wz - level - slope z, and in G: a wz + steep z + flat */
        REAL of_g[C], of_w[C], level[C], slope[C], a[C], steep[C], flat[C];
        CHANNELS {
            REAL rc = r[t + c], mg = sum_g[t + c] / n, mgx = sum_gx[t + c] / n;
            a[c] = gamma[c] * rc;
            REAL e_g = wg[c] - a[c] * mwx[t + c], e_w = -a[c] * mgx; /* E = e_g G + [e_w wz] */
            REAL me = e_w * mw[t + c] + e_g * mg, mex = e_w * mwx[t + c] + e_g * mgx;
            of_g[c] = rc * e_g;
            of_w[c] = gives ? rc * e_w : 0;
            slope[c] = gives ? rc * rc * (mex + gamma[c] * q[t + c] * rc / n) : 0;
            level[c] = (gives ? rc * me : 0) - slope[c] * mean[t + c];
            steep[c] = of_g[c];
            flat[c] = wb[c] - a[c] * mw[t + c] - steep[c] * mean[t + c];
        }
        for (long h = 0; h < H; h++)
            for (long w = 0; w < W; w++) {
                const long here = ((m * H + h) * W + w) * C;
                const REAL *zi = z + here, *wi = wz + here;
                REAL *restrict out = dz + here;
                CHANNELS out[c] = of_w[c] * wi[c] - level[c] - slope[c] * zi[c];
                if (h >> half >= Hf || w >> half >= Wf) continue;
                const long at = ((m * Hf + (h >> half)) * Wf + (w >> half)) * C;
                const REAL *g = gy + at;
                const uint8_t *k = place + at, mine = (h & half) * 2 + (w & half);
                CHANNELS out[c] += (k[c] == mine) * of_g[c] * g[c];
            }
        for (long h = 0; h < Hf; h++)
            for (long w = 0; w < Wf; w++) {
                WINDOW(z, z);
                WINDOW(w, wz);
                const long at = ((m * Hf + h) * Wf + w) * C;
                const uint8_t *k = place + at;
                REAL *restrict out = dgy + at;
                CHANNELS {
                    REAL zc = chosen(k[c], z0[c], z1[c], z2[c], z3[c]), wc = chosen(k[c], w0[c], w1[c], w2[c], w3[c]);
                    out[c] = ALIVE(k[c]) * (a[c] * wc + steep[c] * zc + flat[c]);
                }
            }
    }
}
