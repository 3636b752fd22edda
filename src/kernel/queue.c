/* Netlink messages of NFQUEUE; see queue.h. The receiving path walks the attributes itself: it runs for every new flow. */
#include "kernel/queue.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* The largest packet, its attributes and headers. */
#define SLOT (0x10000 + 4096)
#define RECEIVE_BUFFER (4 << 20)

/* As it goes over the wire: every part is a multiple of 4 bytes, so there is no padding. */
struct verdict_message {
	struct nlmsghdr head;
	struct nfgenmsg gen;
	struct nlattr verdict_attr;
	struct nfqnl_msg_verdict_hdr verdict;
	struct nlattr mark_attr;
	uint32_t mark;
};
_Static_assert(sizeof(struct verdict_message) == 40, "no padding on the wire");

struct lat_queue {
	int fd;
	struct verdict_message verdict;
	struct mmsghdr heads[LAT_QUEUE_BATCH];
	struct iovec parts[LAT_QUEUE_BATCH];
	uint8_t *slots; /* LAT_QUEUE_BATCH * SLOT, anonymous memory: pages that no packet reached are not there */
};

/* Sends a configuration message and waits for its answer (the only blocking calls here, at start). */
static int configure(int fd, struct nlmsghdr *head)
{
	uint8_t buf[1024];
	ssize_t n;

	head->nlmsg_flags |= NLM_F_ACK;
	if (send(fd, head, head->nlmsg_len, 0) < 0)
		return -errno;
	/* Packets may come before the answer: they are lost for the reader, which must not be, so configuration that
	 * follows the bind is done before packets can be asked for (copy mode none sends no packet at all). */
	for (;;) {
		const struct nlmsghdr *answer = (const void *)buf;
		const struct nlmsgerr *error = (const void *)(buf + NLMSG_HDRLEN);

		n = recv(fd, buf, sizeof(buf), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if ((size_t)n >= NLMSG_HDRLEN + sizeof(*error) && answer->nlmsg_type == NLMSG_ERROR &&
		    answer->nlmsg_seq == head->nlmsg_seq)
			return error->error;
	}
}

static int bind_queue(int fd, uint16_t number, uint32_t length)
{
	uint8_t buf[512];
	struct nlmsghdr *head;
	int r;

	head = nfq_nlmsg_put((char *)buf, NFQNL_MSG_CONFIG, number);
	head->nlmsg_seq = 1;
	nfq_nlmsg_cfg_put_cmd(head, AF_UNSPEC, NFQNL_CFG_CMD_BIND);
	r = configure(fd, head);
	if (r < 0 && r != -EBUSY)
		return r;
	/* -EBUSY: bound before. If it was another socket, the next request fails with EPERM. */
	head = nfq_nlmsg_put((char *)buf, NFQNL_MSG_CONFIG, number);
	head->nlmsg_seq = 2;
	nfq_nlmsg_cfg_put_params(head, NFQNL_COPY_PACKET, 0xffff);
	mnl_attr_put_u32(head, NFQA_CFG_QUEUE_MAXLEN, htonl(length));
	mnl_attr_put_u32(head, NFQA_CFG_FLAGS, htonl(NFQA_CFG_F_GSO));
	mnl_attr_put_u32(head, NFQA_CFG_MASK, htonl(NFQA_CFG_F_GSO | NFQA_CFG_F_FAIL_OPEN));
	return configure(fd, head);
}

int lat_queue_open(int fd, uint16_t number, uint32_t length, struct lat_queue **out)
{
	lat_autofree struct lat_queue *q = calloc(1, sizeof(*q));
	int one = 1, size = RECEIVE_BUFFER, flags = fcntl(fd, F_GETFL), r;

	if (!q)
		return -ENOMEM;
	if (flags < 0)
		return -errno;
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	r = bind_queue(fd, number, length);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	if (r < 0)
		return r;
	/* A full receive buffer makes the kernel drop the packet, which is the right answer; an error for it on the
	 * socket would only hide the packets behind it. */
	setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	q->slots = mmap(NULL, (size_t)LAT_QUEUE_BATCH * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		0);
	if (q->slots == MAP_FAILED)
		return -ENOMEM;
	for (int i = 0; i < LAT_QUEUE_BATCH; i++) {
		q->parts[i] = (struct iovec){ q->slots + (size_t)i * SLOT, SLOT };
		q->heads[i].msg_hdr = (struct msghdr){ .msg_iov = &q->parts[i], .msg_iovlen = 1 };
	}
	q->fd = fd;
	q->verdict = (struct verdict_message){
		.head = { .nlmsg_type = (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_VERDICT, .nlmsg_flags = NLM_F_REQUEST },
		.gen = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(number) },
		.verdict_attr = { NLA_HDRLEN + sizeof(struct nfqnl_msg_verdict_hdr), NFQA_VERDICT_HDR },
		.mark_attr = { NLA_HDRLEN + sizeof(uint32_t), NFQA_MARK },
	};
	*out = lat_take(&q);
	return 0;
}

void lat_queue_free(struct lat_queue *q)
{
	if (!q)
		return;
	munmap(q->slots, (size_t)LAT_QUEUE_BATCH * SLOT);
	free(q);
}

/* Finds id and payload in one message. false: it is no packet. */
static bool parse(const uint8_t *buf, size_t size, struct lat_queue_packet *p)
{
	const struct nlmsghdr *head = (const void *)buf;
	size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg)), end;
	bool has_id = false;

	if (size < at || head->nlmsg_len > size || head->nlmsg_len < at ||
	    head->nlmsg_type != ((NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_PACKET))
		return false;
	*p = (struct lat_queue_packet){ 0 };
	for (end = head->nlmsg_len; end - at >= NLA_HDRLEN;) {
		const struct nlattr *attr = (const void *)(buf + at);
		const uint8_t *data = buf + at + NLA_HDRLEN;
		size_t room = end - at, len = attr->nla_len;

		if (len < NLA_HDRLEN || len > room)
			return false;
		switch (attr->nla_type & NLA_TYPE_MASK) {
		case NFQA_PACKET_HDR:
			if (len - NLA_HDRLEN < sizeof(struct nfqnl_msg_packet_hdr))
				return false;
			p->id = ntohl(((const struct nfqnl_msg_packet_hdr *)data)->packet_id);
			has_id = true;
			break;
		case NFQA_PAYLOAD:
			p->data = data;
			p->size = len - NLA_HDRLEN;
			break;
		default:
			break;
		}
		if (NLA_ALIGN(len) >= room)
			break;
		at += NLA_ALIGN(len);
	}
	return has_id;
}

int lat_queue_receive(struct lat_queue *q, void (*packet)(void *ctx, const struct lat_queue_packet *p), void *ctx,
	uint64_t *odd)
{
	int n = recvmmsg(q->fd, q->heads, LAT_QUEUE_BATCH, MSG_DONTWAIT, NULL), packets = 0;

	if (n < 0) {
		if (errno == ENOBUFS)
			++*odd;
		return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 0 : -errno;
	}
	for (int i = 0; i < n; i++) {
		struct lat_queue_packet p;

		if (parse(q->parts[i].iov_base, q->heads[i].msg_len, &p)) {
			packets++;
			packet(ctx, &p);
		} else {
			++*odd;
		}
	}
	return packets;
}

int lat_queue_verdict(struct lat_queue *q, uint32_t id, uint32_t verdict, uint32_t mark)
{
	struct verdict_message *m = &q->verdict;

	m->head.nlmsg_len = mark ? sizeof(*m) : offsetof(struct verdict_message, mark_attr);
	m->verdict = (struct nfqnl_msg_verdict_hdr){ .verdict = htonl(verdict), .id = htonl(id) };
	m->mark = htonl(mark);
	return send(q->fd, m, m->head.nlmsg_len, 0) < 0 ? -errno : 0;
}
