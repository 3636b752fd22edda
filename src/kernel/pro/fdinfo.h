/* What a BPF descriptor is. Asking for its information does not tell: the words of maps, programs and links overlap. */
#ifndef LAT_KERNEL_PRO_FDINFO_H
#define LAT_KERNEL_PRO_FDINFO_H
#include <stdbool.h>

/* word: "map_type:", "prog_type:", "link_type:". */
bool lat_bpf_fd_is(int fd, const char *word);

#endif
