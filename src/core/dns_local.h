/* Names that the sandbox's server answers by itself. */
#ifndef LAT_CORE_DNS_LOCAL_H
#define LAT_CORE_DNS_LOCAL_H

enum lat_dns_local {
	LAT_DNS_LOCAL_NO,
	LAT_DNS_LOCAL_HOST,	    /* localhost and below (RFC 6761): 127.0.0.1, ::1 */
	LAT_DNS_LOCAL_REVERSE_HOST, /* the reverse names of 127.0.0.0/8 and ::1: there is none */
	LAT_DNS_LOCAL_REVERSE, /* every other reverse name: an address is no one's to ask about */
};

/* name: lower case, no trailing dot. */
enum lat_dns_local lat_dns_local_kind(const char *name);

#endif
