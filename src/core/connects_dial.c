/* Dial first: a new TCP socket whose flow is allowed is dialled outside before its connect(2) is made inside. Once the far end
 * has accepted, the socket is marked for that one call, so that its SYN goes straight to the relay's listener: no round
 * over the queue, no second verdict, and a blocking call has nothing to wait for.
 *
 * The mark opens nothing by itself. The relay takes from its listener only the tuple of a flow that was judged and dialled,
 * and resets the rest: another thread that uses the socket in that moment gains a reset. */
#include "core/connects_parts.h"
#include "launcher/launcher.h"
#include <errno.h>
#include <fcntl.h>

/* One that never had an address: only for such a socket is the flow sure to be new. */
static bool is_fresh(const struct lat_connects_request *q)
{
	struct lat_addr local;
	uint16_t sport;

	return q->type == SOCK_STREAM && q->protocol == IPPROTO_TCP && q->address.ss_family == q->domain &&
	       lat_connects_local(q->fd, &local, &sport) == 0 && sport == 0;
}

static bool set_mark(int fd, uint32_t mark)
{
	return setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0;
}

/* The handshake is over when connect returns, in either mode of the socket. Should the listener be full, the guard ends the
 * wait of a blocking one. */
static int connect_marked(struct lat_connects *c, const struct lat_connects_request *q, bool *blocking)
{
	int flags, r;

	lat_guard_enter(c->guard);
	r = connect(q->fd, (const struct sockaddr *)&q->address, q->len) < 0 ? -errno : 0;
	lat_guard_leave(c->guard);
	set_mark(q->fd, 0);
	*blocking = false;
	if (r != -EINPROGRESS && r != -EINTR)
		return r;
	flags = fcntl(q->fd, F_GETFL);
	*blocking = flags >= 0 && !(flags & O_NONBLOCK);
	return -EINPROGRESS;
}

bool lat_connects_dial(struct lat_connects *c, const struct lat_connects_request *q, int *result, bool *blocking)
{
	struct lat_flow flow = { .proto = IPPROTO_TCP, .dir = LAT_DIR_OUT };
	struct lat_addr local;
	bool ready = false;
	uint16_t sport = 0;
	uint64_t id = 0;
	int r;

	if (!c->hooks->dial || !is_fresh(q) ||
	    lat_addr_from_sockaddr((const struct sockaddr *)&q->address, q->len, &flow.remote, &flow.dport) < 0 ||
	    lat_connects_own(c, &flow.remote))
		return false;
	r = c->hooks->dial(c->hooks->ctx, &flow, &q->who, &id, &ready);
	if (r) {
		c->stats.refused++;
		*blocking = false;
		*result = r > 0 ? -r : -EACCES;
		return true;
	}
	if (!id)
		return false;
	if (ready && set_mark(q->fd, LAT_MARK_JUDGED))
		r = connect_marked(c, q, blocking);
	else
		r = lat_connects_try(c, q->fd, q->type, &q->address, q->len, -1, blocking);
	if ((r == 0 || r == -EINPROGRESS) && lat_connects_local(q->fd, &local, &sport) == 0 && sport)
		c->hooks->connected(c->hooks->ctx, id, &local, sport);
	else
		c->hooks->connected(c->hooks->ctx, id, NULL, 0);
	*result = r;
	return true;
}
