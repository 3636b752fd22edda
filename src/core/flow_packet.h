/* Reads the packet that waits in the queue: who wants to talk to whom. The bytes are the program's, so everything is
 * checked against their length; what is not understood completely is not a packet that may pass. */
#ifndef LAT_CORE_FLOW_PACKET_H
#define LAT_CORE_FLOW_PACKET_H
#include "core/flow.h"

struct lat_packet {
	struct lat_flow flow;   /* dir out: local is the source; ports 0 for ICMP */
	uint32_t tcp_seq;       /* TCP: the initial sequence number */
	uint16_t echo_id;       /* ICMP echo */
	uint16_t echo_seq;
	const uint8_t *payload; /* behind the transport header (echo: behind its 8 bytes) */
	size_t payload_size;
};

/* Accepts: IPv4 and IPv6 (hop-by-hop, destination and empty fragment headers skipped), unfragmented; TCP with SYN and
 * without ACK, RST or FIN; UDP; ICMP and ICMPv6 echo requests. 0, or -EBADMSG with *out untouched. */
int lat_packet_parse(const uint8_t *data, size_t size, struct lat_packet *out);

/* Whom any IP packet is about, as far as its first bytes tell (it may be cut off): for reports, not for verdicts. Ports are
 * 0 where there are none, or none in the bytes; of ICMP dport is the type. *length: what the header says. flow->dir is out.
 * 0, or -EBADMSG with *flow untouched. */
int lat_packet_ends(const uint8_t *data, size_t size, struct lat_flow *flow, uint32_t *length);

#endif
