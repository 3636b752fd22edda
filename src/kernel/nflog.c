/* Netlink messages of NFLOG; see nflog.h. The receiving path walks the attributes itself. */
#include "kernel/nflog.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <string.h>
#include <sys/socket.h>

#define RECEIVE_BUFFER (8 << 20)
#define DATAGRAM (256u << 10) /* more than the largest that the kernel makes (NFULNL_NLBUFSIZ_MAX) */
#define KERNEL_BUFFER (64u << 10)
#define THRESHOLD 64          /* packets of one datagram */
#define FLUSH 1               /* hundredths of a second that a packet waits for others */
#define COPY 128              /* bytes of each: every header that is looked at */

struct lat_nflog {
	int fd;
	lat_nflog_fn packet;
	void *ctx;
	uint32_t next_seq;
	bool has_seq;
	uint64_t told;   /* of the next gap, told already when the buffer overflowed */
	uint64_t lost;
	uint8_t *buf;
};

static struct nlmsghdr *begin(void *buf, uint16_t group)
{
	struct nlmsghdr *head = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *gen;

	head->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
	head->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	gen = mnl_nlmsg_put_extra_header(head, sizeof(*gen));
	gen->nfgen_family = AF_UNSPEC;
	gen->version = NFNETLINK_V0;
	gen->res_id = htons(group);
	return head;
}

/* At start only, in answer at once: the kernel answers within the call. */
static int ask(int fd, struct nlmsghdr *head, uint32_t seq)
{
	uint8_t buf[4096];

	head->nlmsg_seq = seq;
	if (send(fd, head, head->nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		const struct nlmsghdr *answer = (const void *)buf;
		const struct nlmsgerr *error = (const void *)(buf + NLMSG_HDRLEN);
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if ((size_t)n >= NLMSG_HDRLEN + sizeof(*error) && answer->nlmsg_type == NLMSG_ERROR &&
		    answer->nlmsg_seq == seq)
			return error->error;
	}
}

static int configure(int fd, uint16_t group)
{
	struct nfulnl_msg_config_cmd bind = { .command = NFULNL_CFG_CMD_BIND };
	struct nfulnl_msg_config_mode mode = { .copy_range = htonl(COPY), .copy_mode = NFULNL_COPY_PACKET };
	uint8_t buf[512];
	struct nlmsghdr *head = begin(buf, group);
	int r;

	mnl_attr_put(head, NFULA_CFG_CMD, sizeof(bind), &bind);
	r = ask(fd, head, 1);
	if (r < 0) /* EPERM is what the kernel says of a group that is another socket's; without the privilege the mode fails */
		return r == -EPERM && geteuid() == 0 ? -EBUSY : r;
	head = begin(buf, group);
	mnl_attr_put(head, NFULA_CFG_MODE, sizeof(mode), &mode);
	mnl_attr_put_u16(head, NFULA_CFG_FLAGS, htons(NFULNL_CFG_F_SEQ));
	mnl_attr_put_u32(head, NFULA_CFG_NLBUFSIZ, htonl(KERNEL_BUFFER));
	mnl_attr_put_u32(head, NFULA_CFG_QTHRESH, htonl(THRESHOLD));
	mnl_attr_put_u32(head, NFULA_CFG_TIMEOUT, htonl(FLUSH));
	return ask(fd, head, 2);
}

int lat_nflog_open(uint16_t group, lat_nflog_fn packet, void *ctx, struct lat_nflog **out)
{
	lat_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct timeval patience = { .tv_sec = 5 };
	int size = RECEIVE_BUFFER, r;
	struct lat_nflog *log;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	r = configure(fd, group);
	if (r < 0)
		return r == -EAGAIN ? -ETIMEDOUT : r;
	log = calloc(1, sizeof(*log));
	if (!log)
		return -ENOMEM;
	log->buf = malloc(DATAGRAM);
	if (!log->buf) {
		free(log);
		return -ENOMEM;
	}
	log->fd = lat_take_fd(&fd);
	log->packet = packet;
	log->ctx = ctx;
	*out = log;
	return 0;
}

void lat_nflog_free(struct lat_nflog *log)
{
	if (!log)
		return;
	close(log->fd);
	free(log->buf);
	free(log);
}

int lat_nflog_fd(const struct lat_nflog *log)
{
	return log->fd;
}

static uint32_t be32(const uint8_t *data, size_t size)
{
	uint32_t value = 0;

	if (size >= sizeof(value))
		memcpy(&value, data, sizeof(value));
	return ntohl(value);
}

/* The attributes of one message. false: they do not fit into each other. */
static bool parse_message(const uint8_t *at, size_t left, struct lat_nflog_packet *p)
{
	*p = (struct lat_nflog_packet){ .prefix = "" };
	while (left >= NLA_HDRLEN) {
		struct nlattr attr;
		const uint8_t *data = at + NLA_HDRLEN;
		size_t size;

		memcpy(&attr, at, sizeof(attr));
		if (attr.nla_len < NLA_HDRLEN || attr.nla_len > left)
			return false;
		size = attr.nla_len - NLA_HDRLEN;
		switch (attr.nla_type & NLA_TYPE_MASK) {
		case NFULA_PREFIX:
			p->prefix = (const char *)data;
			p->prefix_size = strnlen((const char *)data, size);
			break;
		case NFULA_PAYLOAD:
			p->data = data;
			p->size = size;
			break;
		case NFULA_IFINDEX_INDEV:
			p->in = be32(data, size);
			break;
		case NFULA_IFINDEX_OUTDEV:
			p->out = be32(data, size);
			break;
		case NFULA_SEQ:
			p->seq = be32(data, size);
			p->has_seq = size >= 4;
			break;
		default:
			break;
		}
		if ((size_t)NLA_ALIGN(attr.nla_len) >= left)
			break;
		at += NLA_ALIGN(attr.nla_len);
		left -= (size_t)NLA_ALIGN(attr.nla_len);
	}
	return true;
}

int lat_nflog_parse(const uint8_t *data, size_t size, lat_nflog_fn packet, void *ctx, uint64_t *odd)
{
	const size_t skip = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	int packets = 0;

	while (size >= NLMSG_HDRLEN) {
		struct nlmsghdr head;
		struct lat_nflog_packet p;

		memcpy(&head, data, sizeof(head));
		if (head.nlmsg_len < NLMSG_HDRLEN || head.nlmsg_len > size) {
			++*odd;
			return packets;
		}
		if (head.nlmsg_type == (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET) && head.nlmsg_len >= skip &&
		    parse_message(data + skip, head.nlmsg_len - skip, &p)) {
			packet(ctx, &p);
			packets++;
		} else if (head.nlmsg_type != NLMSG_DONE && head.nlmsg_type != NLMSG_NOOP && head.nlmsg_type != NLMSG_ERROR) {
			++*odd;
		}
		if (NLMSG_ALIGN(head.nlmsg_len) >= size)
			break;
		data += NLMSG_ALIGN(head.nlmsg_len);
		size -= NLMSG_ALIGN(head.nlmsg_len);
	}
	return packets;
}

/* A gap in the numbers is what was lost; an overflow that was counted before the gap was seen is in it. */
static void number(void *ctx, const struct lat_nflog_packet *p)
{
	struct lat_nflog *log = ctx;

	if (p->has_seq) {
		uint32_t gap = log->has_seq ? p->seq - log->next_seq : 0;

		if (gap > log->told && gap < 1u << 31)
			log->lost += gap - log->told;
		log->told = 0;
		log->has_seq = true;
		log->next_seq = p->seq + 1;
	}
	log->packet(log->ctx, p);
}

int lat_nflog_dispatch(struct lat_nflog *log, int budget, struct lat_nflog_losses *losses)
{
	int given = 0;

	*losses = (struct lat_nflog_losses){ 0 };
	while (given < budget) {
		ssize_t n = recv(log->fd, log->buf, DATAGRAM, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ENOBUFS) { /* how many, the next number tells; if none comes, it was one at least */
			log->told++;
			log->lost++;
			continue;
		}
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n <= 0)
			break;
		given += lat_nflog_parse(log->buf, (size_t)n, number, log, &losses->odd);
	}
	losses->lost = log->lost;
	log->lost = 0;
	return given;
}
