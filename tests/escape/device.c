/* device NAME: ways to a device that sockets are not bound to: $DEVICE, with a neighbour $FORBIDDEN4, both allowed by the
 * policy but for the device. What leaves by the device is told by its other end. */
#include "attack.h"
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>

static const char *device(void)
{
	return getenv("DEVICE") ? getenv("DEVICE") : "v1";
}

static int udp(void)
{
	return socket(AF_INET, SOCK_DGRAM, 0);
}

static void send_to(int s)
{
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
}

static void dial(int s)
{
	struct pollfd p = { s, POLLOUT, 0 };

	fcntl(s, F_SETFL, O_NONBLOCK);
	connect(s, (struct sockaddr *)&bad, sizeof(bad));
	poll(&p, 1, 200);
	send(s, payload, sizeof(payload), MSG_NOSIGNAL);
}

static void name_device(int s, const char *name)
{
	setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name));
}

static int plain(void)
{
	int s = udp();

	send_to(s);
	dial(s);
	dial(socket(AF_INET, SOCK_STREAM, 0));
	return 0;
}

/* Before the call, after it, and cleared. */
static int bind_to_device(void)
{
	int s = udp(), t = socket(AF_INET, SOCK_STREAM, 0), u = udp();

	name_device(s, device());
	send_to(s);
	name_device(t, device());
	dial(t);
	dial(u);
	name_device(u, "");
	send(u, payload, sizeof(payload), MSG_NOSIGNAL);
	name_device(u, device());
	send(u, payload, sizeof(payload), MSG_NOSIGNAL);
	send_to(u);
	return 0;
}

static void with_info(int s, bool name)
{
	char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = { 0 };
	struct in_pktinfo info = { .ipi_ifindex = (int)if_nametoindex(device()) };
	struct iovec io = { (void *)payload, sizeof(payload) };
	struct msghdr m = { .msg_name = name ? &bad : NULL, .msg_namelen = name ? sizeof(bad) : 0, .msg_iov = &io,
		.msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = IPPROTO_IP;
	c->cmsg_type = IP_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(info));
	memcpy(CMSG_DATA(c), &info, sizeof(info));
	sendmsg(s, &m, 0);
}

static int packet_info(void)
{
	int s = udp(), c = udp();

	with_info(s, true);
	connect(c, (struct sockaddr *)&bad, sizeof(bad));
	with_info(c, false);
	return 0;
}

static int unicast_device(void)
{
	int s = udp(), t = socket(AF_INET, SOCK_STREAM, 0);
	uint32_t index = htonl(if_nametoindex(device()));

	setsockopt(s, IPPROTO_IP, IP_UNICAST_IF, &index, sizeof(index));
	setsockopt(t, IPPROTO_IP, IP_UNICAST_IF, &index, sizeof(index));
	send_to(s);
	dial(s);
	dial(t);
	return 0;
}

/* $SOURCE: the device's own address. */
static int source_address(void)
{
	struct sockaddr_in from = { .sin_family = AF_INET };
	int s = udp(), t = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, getenv("SOURCE") ? getenv("SOURCE") : "0.0.0.0", &from.sin_addr);
	bind(s, (struct sockaddr *)&from, sizeof(from));
	bind(t, (struct sockaddr *)&from, sizeof(from));
	send_to(s);
	dial(s);
	dial(t);
	return 0;
}

static int group_device(void)
{
	struct sockaddr_in group = bad;
	struct ip_mreqn from = { .imr_ifindex = (int)if_nametoindex(device()) };
	int s = udp();

	inet_pton(AF_INET, "239.1.2.4", &group.sin_addr);
	setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &from, sizeof(from));
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&group, sizeof(group));
	return 0;
}

static const struct attack attacks[] = {
	{ "plain", plain }, { "bind-to-device", bind_to_device }, { "packet-info", packet_info },
	{ "unicast-device", unicast_device }, { "source-address", source_address }, { "group-device", group_device },
	{ NULL, NULL },
};

int main(int argc, char **argv)
{
	return attack_main(argc, argv, attacks);
}
