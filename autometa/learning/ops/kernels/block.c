/* A block of a backbone: convolution with 3 x 3 filters, normalisation, ReLU and pooling, image by image, with first and
   second derivatives. What lies between is in a core's own cache when it is needed again. Symbols as in maps.h and
   convolution.h. Filters come and go as torch has them, [C][D][3][3]; inside they are taps[3][3][D][C], and `turned` by half
   and transposed, [3][3][C][D], to lead from a gradient in z to one in x.

   Maps z may be null: they are then recomputed each time, which for a few input channels takes less than to fetch them.
   Sums over images are of GROUPS of these, so that they do not depend on the number of threads. `workspace` has as many
   numbers as `block_workspace` says, asked with the same shape and number of threads. */

#include "convolution.h"
#include "maps.h"

#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#define ROOT(v) _Generic((v), float: sqrtf, double: sqrt)(v)
#define GROUPS 16
#define EPSILON 1e-5 /* as in statistics.py */
/* Whoever is free takes the next: cores are seldom equally fast for long. */
#define EACH_GROUP _Pragma("omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)") \
    for (long group = 0; group < GROUPS; group++)
#define EACH_IMAGE for (long m = M * group / GROUPS; m < M * (group + 1) / GROUPS; m++)
/* How the workspace is divided, in numbers from its start: what each thread has to itself, filters arranged in other
   ways, and sums over a group, an image and a task. */
typedef struct { long around, own, turned, vtaps, vturned, parts, partial, sums, all; } Workspace;

static Workspace workspace_of(const Shape *s) {
    const long C = s->C, D = s->D, filters = 9 * D * C;
    Workspace at;
    at.around = ((s->H + 2) * (s->W + 2) + 63) & ~63L;
    at.own = 2 * at.around * (C + D) + 2 * s->H * s->W * C;
    at.turned = s->threads * at.own;
    at.vtaps = at.turned + filters;
    at.vturned = at.vtaps + filters;
    at.parts = at.vturned + filters;
    at.partial = at.parts + GROUPS * filters;
    at.sums = at.partial + 3 * s->M * C;
    at.all = at.sums + 3 * s->T * C;
    return at;
}

long block_workspace(const Shape *s) { return workspace_of(s).all; }

#define SIZES \
    UNPACK; \
    const long D = s->D, map = H * W * C, image = H * W * D, pooled = Hf * Wf * C, all = 9 * D * C; \
    const Workspace at = workspace_of(s); \
    const long around = at.around; \
    REAL *turned = workspace + at.turned, *vtaps = workspace + at.vtaps, *vturned = workspace + at.vturned; \
    REAL *parts = workspace + at.parts, *partial = workspace + at.partial, *sums = workspace + at.sums; \
    (void)image, (void)pooled, (void)turned, (void)vtaps, (void)vturned, (void)sums
/* A thread's own: two padded images, two padded maps, two maps; each where a vector may begin. */
#define OWN \
    REAL *own = workspace + THREAD * at.own, *px = own, *pv = px + around * D; \
    REAL *pg = pv + around * D, *pd = pg + around * C; \
    REAL *zm = pd + around * C, *wm = zm + map; \
    clear_border(H, W, D, px), clear_border(H, W, D, pv), clear_border(H, W, C, pg), clear_border(H, W, C, pd); \
    (void)px, (void)pv, (void)pg, (void)pd, (void)zm, (void)wm
#define INSIDE(padded) (padded + (W + 3) * C)
#define PITCH ((W + 2) * C)

/* The maps of image m: those kept, or recomputed; either way its padded image is in px. */
#define MAPS(kept) \
    pad(H, W, D, x + m * image, px); \
    const REAL *zi = kept ? kept + m * map : zm; \
    if (!kept) convolve(H, W, D, C, px, taps, 0, zm)

/* [C][D][3][3] as [3][3][D][C] and, unless null, turned. */
static void arrange(const Shape *s, const REAL *filters, REAL *taps, REAL *turned) {
    const long D = s->D, C = s->C, threads = s->threads;
    (void)threads;
    IMAGES
    for (long k = 0; k < 9; k++) {
        for (long d = 0; d < D; d++)
            for (long c = 0; c < C; c++) taps[(k * D + d) * C + c] = filters[(c * D + d) * 9 + k];
        if (!turned) continue;
        for (long c = 0; c < C; c++)
            for (long d = 0; d < D; d++) turned[((8 - k) * C + c) * D + d] = filters[(c * D + d) * 9 + k];
    }
}

/* The sum over groups of what is arranged as taps, as torch has it. */
static void add_up(const Shape *s, const REAL *parts, REAL *filters) {
    const long D = s->D, C = s->C, threads = s->threads;
    (void)threads;
    IMAGES
    for (long row = 0; row < 9 * D; row++) {
        const REAL *part = parts + row * C;
        REAL sum[C];
        CHANNELS sum[c] = part[c];
        for (long group = 1; group < GROUPS; group++) CHANNELS sum[c] += part[group * 9 * D * C + c];
        for (long c = 0; c < C; c++) filters[(c * D + row % D) * 9 + row / D] = sum[c];
    }
}

/* y, place (may be null), and what the derivatives need: taps, mean and var (unless given, with S = 0), r, scale = gamma r,
   and z unless null. */
void block_forward(const Shape *s, REAL *workspace, const REAL *x, const REAL *filters, const REAL *gamma,
                   const REAL *beta, REAL *taps, REAL *z, REAL *mean, REAL *var, REAL *r, REAL *scale, REAL *y, uint8_t *place) {
    SIZES;
    arrange(s, filters, taps, 0);
    if (S) {
        EACH_GROUP {
            OWN;
            EACH_IMAGE {
                if (!z && !gives(s, m)) continue;
                REAL *zi = z ? z + m * map : zm;
                pad(H, W, D, x + m * image, px);
                convolve(H, W, D, C, px, taps, 0, zi);
                if (gives(s, m)) image_moments(s, zi, partial + 2 * m * C, partial + (2 * m + 1) * C);
            }
        }
        all_moments(s, partial, mean, var);
    }
    for (long i = 0; i < T * C; i++) {
        r[i] = 1 / ROOT(var[i] + (REAL)EPSILON);
        scale[i] = gamma[i % C] * r[i];
    }
    EACH_GROUP {
        OWN;
        EACH_IMAGE {
            const long t = of_task(s, m), to = m * pooled;
            MAPS(z);
            image_forward(s, zi, mean + t, scale + t, beta, y + to, place ? place + to : 0);
        }
    }
}

/* The gradients in x (unless gx is null), the filters, gamma and beta; and the sums they come from, for `block_twice`. */
void block_backward(const Shape *s, REAL *workspace, const REAL *x, const REAL *filters, const REAL *taps, const REAL *z,
                    const REAL *mean, const REAL *r, const REAL *scale, const REAL *gamma, const REAL *beta,
                    const REAL *gy, const uint8_t *place, const REAL *y, REAL *sum_g, REAL *sum_gx, REAL *gx,
                    REAL *gfilters, REAL *ggamma, REAL *gbeta) {
    SIZES;
    const int divides = can_divide(s, gamma, beta);
    if (gx) arrange(s, filters, vtaps, turned);
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
        memset(parts + group * all, 0, all * sizeof(REAL));
        EACH_IMAGE {
            const long from = m * pooled;
            MAPS(z);
            image_backward(s, m, zi, mean, r, gamma, gy + from, place + from, sum_g, sum_gx, INSIDE(pg), PITCH);
            filter_gradient(H, W, D, C, px, pg, parts + group * all);
            if (gx) convolve(H, W, C, D, pg, turned, 0, gx + m * image);
        }
    }
    add_up(s, parts, gfilters);
    memset(ggamma, 0, C * sizeof(REAL));
    memset(gbeta, 0, C * sizeof(REAL));
    for (long t = 0; t < T * C; t += C) CHANNELS ggamma[c] += sum_gx[t + c], gbeta[c] += sum_g[t + c];
}

/* wz of image m in `to`: the gradient in gz of <vx, gx> + <vfilters, gfilters>. vx may be null. */
#define DIRECTION(to) \
    if (vx) pad(H, W, D, vx + m * image, pv); \
    convolve(H, W, D, C, px, vtaps, 0, to); \
    if (vx) convolve(H, W, D, C, pv, taps, 1, to)

/* The gradient of <vx, gx> + <vfilters, gfilters> + <wg, ggamma> + <wb, gbeta> in x (unless dx is null), the filters, gy
   and gamma. wz[M][H][W][C] is kept unless null. */
void block_twice(const Shape *s, REAL *workspace, const REAL *x, const REAL *filters, const REAL *taps, const REAL *z,
                 const REAL *mean, const REAL *r, const REAL *gamma, const REAL *gy, const uint8_t *place,
                 const REAL *sum_g, const REAL *sum_gx, const REAL *vx, const REAL *vfilters, const REAL *wg,
                 const REAL *wb, REAL *wz, REAL *dx, REAL *dfilters, REAL *dgy, REAL *dgamma) {
    SIZES;
    if (dx) arrange(s, filters, vtaps, turned);
    arrange(s, vfilters, vtaps, dx ? vturned : 0);
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
        REAL *part = parts + group * all;
        memset(part, 0, all * sizeof(REAL));
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
    add_up(s, parts, dfilters);
}
