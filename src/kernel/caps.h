/* What this kernel lets this caller do, found by doing it: each probe runs in a child of its own, under a time limit, and
 * leaves nothing behind. Config options, versions and device nodes have each given wrong answers on real machines. */
#ifndef LAT_KERNEL_CAPS_H
#define LAT_KERNEL_CAPS_H
#include <stddef.h>

/* Runs in a child that ends after it. 0: it works; or negative errno. May write a detail for people ("ABI 6"). */
typedef int (*lat_cap_probe)(char *detail, size_t size);

struct lat_cap_test {
	const char *name; /* "user_namespace"; ends a list when NULL */
	lat_cap_probe probe;
};

struct lat_cap {
	int error;        /* 0: it works; else errno; ETIMEDOUT: the probe did not end */
	char detail[160]; /* or "" */
};

/* Those that need nothing above the kernel layer; core/trap_caps.h has the rest. */
extern const struct lat_cap_test lat_kernel_caps[];

/* Runs one probe in a child. 0, or negative errno when there could be no child (out untouched). */
int lat_cap_try(lat_cap_probe probe, int timeout_ms, struct lat_cap *out);

/* For probes: enters a new user namespace with the caller as its root, and with it what `clone_flags` say (CLONE_NEWNET
 * ...). 0, or negative errno. */
int lat_cap_enter(int clone_flags);

#endif
