/* A generation as preload mode's shim reads it (sandbox/intercept/shared.h): written out from the very tables that
 * lat_policy_judge asks. */
#ifndef LAT_CORE_PRELOAD_IMAGE_H
#define LAT_CORE_PRELOAD_IMAGE_H
#include "core/policy.h"
#include "intercept/shared.h"

/* ask_all: whatever it is, the supervisor is asked. *out is malloc'ed and aligned to 16 bytes. 0, -ENOMEM or -E2BIG. */
int lat_preload_image(const struct lat_policy *policy, bool ask_all, struct lat_shim_image **out);
/* The same in a sealed memfd: a descriptor, or negative errno. */
int lat_preload_memfd(const struct lat_policy *policy, bool ask_all, uint32_t *size);

#endif
