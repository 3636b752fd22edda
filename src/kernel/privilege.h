/* Giving up capabilities, in every thread of this process. */
#ifndef LAT_KERNEL_PRIVILEGE_H
#define LAT_KERNEL_PRIVILEGE_H
#include <stdint.h>

/* The capability's number ("net_admin"), or -EINVAL. */
int lat_capability_number(const char *name);
/* The effective set of the calling thread; 0 or negative errno. */
int lat_capabilities(uint64_t *effective);
/* From now on every thread has at most the capabilities of `keep` (bit = number), and so has whatever it starts: the bounding
 * set goes, too, as far as CAP_SETPCAP is there; no_new_privs is set. All or, on error (negative errno), maybe some: the caller
 * must end then. */
int lat_capabilities_keep(uint64_t keep);

#endif
