/* Where liblattice_intercept.so is, and the environment that loads it into a command. */
#ifndef LAT_CORE_PRELOAD_PLACE_H
#define LAT_CORE_PRELOAD_PLACE_H
#include <limits.h>

/* Beside this executable, else in the libdir beside its folder, where it is installed. 0, or -ENOENT with path filled with where it was looked for last. */
int lat_preload_library(char path[PATH_MAX]);
/* A copy of the environment with the library first in LD_PRELOAD (the user's own stay behind it), and where the supervisor is.
 * *out is one block. 0, -ENOMEM, or -EINVAL: the library's path cannot stand in LD_PRELOAD. */
int lat_preload_environment(const char *library, const char *dir, char ***out);

#endif
