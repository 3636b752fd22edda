/* Ends the sockets of this host that a flow belongs to, so that their owner learns of the cut at once (sock_diag's destroy). A
 * kernel without it, or a flow that only passes through, has nothing to destroy: no matter, the flow is denied anyway. */
#include "kernel/pro/tc_parts.h"
#include "base/mem.h"
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int lat_tc_destroy(const struct lat_tc_key *key)
{
	lat_autoclose int fd = -1;
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 req;
	} ask = {
		.head = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DESTROY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.req = { .sdiag_family = key->is6 ? AF_INET6 : AF_INET, .sdiag_protocol = key->proto, .idiag_states = ~0u },
	};
	struct {
		struct nlmsghdr head;
		struct nlmsgerr err;
		char more[256];
	} answer;
	ssize_t n;

	if (key->proto != IPPROTO_TCP) /* a UDP socket may have other peers, too */
		return -EOPNOTSUPP;
	ask.req.id.idiag_sport = key->local_port;
	ask.req.id.idiag_dport = key->remote_port;
	memcpy(ask.req.id.idiag_src, key->local + (key->is6 ? 0 : 12), key->is6 ? 16 : 4);
	memcpy(ask.req.id.idiag_dst, key->remote + (key->is6 ? 0 : 12), key->is6 ? 16 : 4);
	ask.req.id.idiag_cookie[0] = ask.req.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (fd < 0 || send(fd, &ask, sizeof(ask), 0) < 0)
		return -errno;
	n = recv(fd, &answer, sizeof(answer), 0);
	if (n < (ssize_t)(sizeof(answer.head) + sizeof(answer.err)) || answer.head.nlmsg_type != NLMSG_ERROR)
		return n < 0 ? -errno : -EPROTO;
	return answer.err.error;
}
