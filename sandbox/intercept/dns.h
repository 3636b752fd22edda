/* DNS messages as the shim writes and reads them: it asks the supervisor's server, which answers with addresses only. The
 * answer comes from a socket that the program could have put in its place, so it is read like anything from outside. */
#ifndef LAT_SANDBOX_INTERCEPT_DNS_H
#define LAT_SANDBOX_INTERCEPT_DNS_H
#include "base/addr.h"

#define LAT_SHIM_DNS_QUERY 280
#define LAT_SHIM_DNS_ADDRS 64

/* A query for addresses of one family (4 or 6). Its length, or -EINVAL: no name that can be asked for. */
int lat_shim_dns_query(const char *name, int family, uint8_t out[LAT_SHIM_DNS_QUERY]);
/* The addresses of that family in an answer: how many; -ENOENT: no such name; -EACCES: refused; -EAGAIN: failed; -EBADMSG. */
int lat_shim_dns_answer(const uint8_t *msg, size_t len, int family, struct lat_addr *out, size_t max);

#endif
