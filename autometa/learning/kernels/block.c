/* A block of a backbone: convolution with 3 x 3 filters, normalisation, ReLU and pooling, image by image, with first and
   second derivatives. What lies between is in a core's own cache when it is needed again. Symbols as in maps.h and
   convolution.h; `turned` are the filters turned and transposed, [3][3][C][D], which lead from a gradient in z to one in x.

   Maps z may be null: they are then made again each time, which for a few input channels takes less than to fetch them.
   Sums over images are of GROUPS of these, so that they do not depend on the number of threads. `scratch` holds ROOM
   numbers for each thread. */

#include "convolution.h"
#include "maps.h"
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#define GROUPS 16
#define PIECE 1024
/* Whoever is free takes the next: cores are seldom equally fast for long. */
#define EACH_GROUP _Pragma("omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)") \
    for (long group = 0; group < GROUPS; group++)
#define EACH_IMAGE for (long m = M * group / GROUPS; m < M * (group + 1) / GROUPS; m++)
#define SIZES \
    UNPACK; \
    const long D = s->D, map = H * W * C, image = H * W * D, pooled = Hf * Wf * C, weights = 9 * D * C; \
    const long around = ((H + 2) * (W + 2) + 63) & ~63L, ROOM = 2 * around * (C + D) + 2 * map; \
    (void)image, (void)pooled, (void)weights
/* A thread's own: two padded images, two padded maps, two maps; each where a vector may begin. */
#define OWN \
    REAL *own = scratch + THREAD * ROOM, *px = own, *pv = px + around * D, *pg = pv + around * D, *pd = pg + around * C; \
    REAL *zm = pd + around * C, *wm = zm + map; \
    clear_border(H, W, D, px), clear_border(H, W, D, pv), clear_border(H, W, C, pg), clear_border(H, W, C, pd); \
    (void)px, (void)pv, (void)pg, (void)pd, (void)zm, (void)wm
#define INSIDE(padded) (padded + (W + 3) * C)
#define PITCH ((W + 2) * C)

/* The maps of image m: those kept, or made again; either way its padded image is in px. */
#define MAPS(kept) \
    pad(H, W, D, x + m * image, px); \
    const REAL *zi = kept ? kept + m * map : zm; \
    if (!kept) convolve(H, W, D, C, px, filters, 0, zm)

static void add_up(const REAL *parts, long count, long threads, REAL *sum) {
    (void)threads;
    IMAGES
    for (long first = 0; first < count; first += PIECE) {
        const long end = first + PIECE < count ? first + PIECE : count;
        for (long i = first; i < end; i++) sum[i] = parts[i];
        for (long group = 1; group < GROUPS; group++)
            for (long i = first; i < end; i++) sum[i] += parts[group * count + i];
    }
}

/* Mean and variance of the maps, which are kept unless z is null. `partial` holds 2 M C numbers. */
void block_moments(const Shape *s, const REAL *x, const REAL *filters, REAL *z, REAL *scratch, REAL *partial, REAL *mean,
                   REAL *var) {
    SIZES;
    EACH_GROUP {
        OWN;
        EACH_IMAGE {
            if (!z && !gives(s, m)) continue;
            REAL *zi = z ? z + m * map : zm;
            pad(H, W, D, x + m * image, px);
            convolve(H, W, D, C, px, filters, 0, zi);
            if (gives(s, m)) image_moments(s, zi, partial + 2 * m * C, partial + (2 * m + 1) * C);
        }
    }
    all_moments(s, partial, mean, var);
}

void block_forward(const Shape *s, const REAL *x, const REAL *filters, const REAL *z, REAL *scratch, const REAL *mean,
                   const REAL *scale, const REAL *beta, REAL *y, uint8_t *place) {
    SIZES;
    EACH_GROUP {
        OWN;
        EACH_IMAGE {
            const long t = of_task(s, m), to = m * pooled;
            MAPS(z);
            image_forward(s, zi, mean + t, scale + t, beta, y + to, place ? place + to : 0);
        }
    }
}

/* The gradients in x (unless gx is null) and in the filters, and the sums that are those in gamma and beta. y is what
   `block_forward` gave, scale = gamma r. `partial` holds 2 M C numbers, `parts` GROUPS times the filters. */
void block_backward(const Shape *s, const REAL *x, const REAL *filters, const REAL *turned, const REAL *z, REAL *scratch,
                    const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy, const uint8_t *place,
                    const REAL *y, const REAL *scale, const REAL *beta, REAL *partial, REAL *parts, REAL *sum_g,
                    REAL *sum_gx, REAL *gx, REAL *gf) {
    SIZES;
    const int divides = can_divide(s, gamma, beta);
    EACH_GROUP {
        OWN;
        EACH_IMAGE {
            const long from = m * pooled, t = of_task(s, m);
            REAL *of = partial + 2 * m * C;
            if (divides) {
                image_sums_of_output(s, y + from, scale + t, beta, gy + from, place + from, of, of + C);
                continue;
            }
            MAPS(z);
            image_sums(s, zi, mean + t, gy + from, place + from, of, of + C);
        }
    }
    all_sums(s, partial, r, sum_g, sum_gx);
    EACH_GROUP {
        OWN;
        memset(parts + group * weights, 0, weights * sizeof(REAL));
        EACH_IMAGE {
            const long from = m * pooled;
            MAPS(z);
            image_backward(s, m, zi, mean, r, gamma, gy + from, place + from, sum_g, sum_gx, INSIDE(pg), PITCH);
            filter_gradient(H, W, D, C, px, pg, parts + group * weights);
            if (gx) convolve(H, W, C, D, pg, turned, 0, gx + m * image);
        }
    }
    add_up(parts, weights, threads, gf);
}

/* wz of image m in `to`: the gradient in gz of <vx, gx> + <vfilters, gf>. vx may be null. */
#define DIRECTION(to) \
    if (vx) pad(H, W, D, vx + m * image, pv); \
    convolve(H, W, D, C, px, vfilters, 0, to); \
    if (vx) convolve(H, W, D, C, pv, filters, 1, to)

/* The gradient of <vx, gx> + <vfilters, gf> + <wg, sum_gx> + <wb, sum_g> in x (unless dx is null), the filters, gy and gamma;
   vturned are vfilters turned and transposed. wz[M][H][W][C] is kept unless null. `partial` holds 3 M C numbers, `sums` 3 T C. */
void block_twice(const Shape *s, const REAL *x, const REAL *filters, const REAL *turned, const REAL *z, REAL *scratch,
                 const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy, const uint8_t *place,
                 const REAL *sum_g, const REAL *sum_gx, const REAL *vx, const REAL *vfilters, const REAL *vturned, const REAL *wg,
                 const REAL *wb, REAL *partial, REAL *sums, REAL *parts, REAL *wz, REAL *dx, REAL *df, REAL *dgy,
                 REAL *dgamma) {
    SIZES;
    EACH_GROUP {
        OWN;
        EACH_IMAGE {
            const long from = m * pooled;
            REAL *of = partial + 3 * m * C, *wi = wz ? wz + m * map : wm;
            MAPS(z);
            DIRECTION(wi);
            image_twice_sums(s, m, zi, mean, gy + from, place + from, wi, of, of + C, of + 2 * C);
        }
    }
    all_twice_sums(s, partial, r, sum_g, sum_gx, sums, dgamma);
    EACH_GROUP {
        OWN;
        REAL *part = parts + group * weights;
        memset(part, 0, weights * sizeof(REAL));
        EACH_IMAGE {
            const long from = m * pooled;
            MAPS(z);
            const REAL *wi = wz ? wz + m * map : wm;
            if (!wz) { DIRECTION(wm); }
            else if (vx) pad(H, W, D, vx + m * image, pv);
            image_twice(s, m, zi, mean, r, gamma, gy + from, place + from, sum_g, sum_gx, wi, wg, wb, sums, INSIDE(pd),
                        PITCH, dgy + from);
            filter_gradient(H, W, D, C, px, pd, part);
            if (dx) convolve(H, W, C, D, pd, turned, 0, dx + m * image);
            if (!vx && !dx) continue;
            image_backward(s, m, zi, mean, r, gamma, gy + from, place + from, sum_g, sum_gx, INSIDE(pg), PITCH);
            if (vx) filter_gradient(H, W, D, C, pv, pg, part);
            if (dx) convolve(H, W, C, D, pg, vturned, 1, dx + m * image);
        }
    }
    add_up(parts, weights, threads, df);
}
