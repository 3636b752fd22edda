/* Places in the file system that programs of our own user cannot change: what is found there again is what the owner of
 * the host put there. */
#ifndef LAT_BASE_PLACE_H
#define LAT_BASE_PLACE_H
#include <stdbool.h>

/* True if no program of our user can make the path name another file: no folder on the way is ours or writable for us
 * (sticky ones with somebody else's entry count as not writable), and no part is a symbolic link. Relative paths, and
 * everything for root, are not fixed. */
bool lat_place_is_fixed(const char *path);
/* True if our user can write into the open file, or give himself the right to. */
bool lat_place_is_ours(int fd);

#endif
