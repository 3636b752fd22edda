/* News that the nf_tables rules of our network namespace have changed, whoever did it (iptables-nft too; not the legacy
 * tables). What changed is not told: read it. */
#ifndef LAT_KERNEL_NFTMON_H
#define LAT_KERNEL_NFTMON_H
#include <stdbool.h>

/* A nonblocking, close-on-exec descriptor that is readable when something has changed; the caller closes it. Or negative
 * errno. */
int lat_nftmon_open(void);
/* Reads all that waits; true when something did, or when news were lost. */
bool lat_nftmon_drain(int fd);

#endif
