/* watcher IFACE ADDRESS...: prints "leak PROTO ADDRESS" for each IP packet that arrives for one of the addresses, or reports
 * (IGMPv3) that one has members, and "ready" first. What the forbidden server saw is what counts: nothing else on the wire can hide from it. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_ll any = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int s = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL)), big = 8 << 20;
	unsigned char buf[65536];

	if (argc < 3 || s < 0)
		return 2;
	any.sll_ifindex = (int)if_nametoindex(argv[1]);
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big));
	if (bind(s, (struct sockaddr *)&any, sizeof(any)))
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	for (;;) {
		struct sockaddr_ll from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(s, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);
		char text[INET6_ADDRSTRLEN] = "";
		int proto = 0;

		if (n < 20 || from.sll_pkttype == PACKET_OUTGOING)
			continue;
		if (from.sll_protocol == htons(ETH_P_IP)) {
			inet_ntop(AF_INET, buf + 16, text, sizeof(text));
			proto = buf[9];
		} else if (from.sll_protocol == htons(ETH_P_IPV6) && n >= 40) {
			inet_ntop(AF_INET6, buf + 24, text, sizeof(text));
			proto = buf[6];
		}
		if (proto == IPPROTO_IGMP && n >= 4 * (buf[0] & 15) + 16 && buf[4 * (buf[0] & 15)] == 0x22)
			inet_ntop(AF_INET, buf + 4 * (buf[0] & 15) + 12, text, sizeof(text));
		for (int i = 2; i < argc; i++)
			if (strcmp(argv[i], text) == 0)
				printf("leak %d %s\n", proto, text);
	}
}
