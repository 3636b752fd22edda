/* The trap: which packets wait in the queue, what each verdict's mark does to the program, and that
 * nothing else gets anywhere. The test is the supervisor; no packet leaves the sandbox. */
#include "support/sandbox.h"
#include "base/addr.h"
#include <netinet/in.h>
#include <netinet/tcp.h>

static socklen_t address(struct sockaddr_storage *ss, const char *text, int port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ss;

	memset(ss, 0, sizeof(*ss));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return sizeof(*v4);
	}
	inet_pton(AF_INET6, text, &v6->sin6_addr);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	return sizeof(*v6);
}

/* Hosts without IPv6 have none inside either. */
static bool has_ipv6(void)
{
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Connects as most programs do; the errno of the outcome, 0 when connected. */
static int dial(const char *to, int type, int port, int *out)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss, to, port), n = sizeof(int);
	int fd = socket(ss.ss_family, type | SOCK_NONBLOCK, 0), error = 0;
	struct pollfd p = { fd, POLLOUT, 0 };

	*out = fd;
	if (fd < 0 || (connect(fd, (struct sockaddr *)&ss, len) && errno != EINPROGRESS))
		return errno;
	if (poll(&p, 1, BOUND_MS) != 1)
		return ETIMEDOUT;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
	return error;
}

/* "ADDRESS PORT": connects by TCP; the exit status is the errno. */
static int in_tcp(const char *arg)
{
	char to[64];
	int port, fd;

	sscanf(arg, "%63s %d", to, &port);
	return dial(to, SOCK_STREAM, port, &fd);
}

static int in_tcp_talk(const char *arg)
{
	char to[64], text[6] = "";
	struct sockaddr_storage peer, wanted;
	socklen_t len = sizeof(peer);
	int port, fd, error;

	sscanf(arg, "%63s %d", to, &port);
	address(&wanted, to, port);
	error = dial(to, SOCK_STREAM, port, &fd);
	if (error)
		return error;
	fcntl(fd, F_SETFL, 0);
	if (getpeername(fd, (struct sockaddr *)&peer, &len) || memcmp(&peer, &wanted, 8))
		return 91;
	return recv(fd, text, 5, MSG_WAITALL) == 5 && !strcmp(text, "hello") ? 0 : 92;
}

/* Sends by a connected UDP socket and waits for what comes: the errno of it, 0 for an answer. */
static int in_udp(const char *arg)
{
	char to[64], text[8];
	int port, fd;
	struct pollfd p = { 0, POLLIN, 0 };

	sscanf(arg, "%63s %d", to, &port);
	if (dial(to, SOCK_DGRAM, port, &fd) || send(fd, "ping", 4, 0) != 4)
		return 93;
	p.fd = fd;
	if (poll(&p, 1, BOUND_MS) != 1)
		return ETIMEDOUT;
	return recv(fd, text, sizeof(text), 0) < 0 ? errno : 0;
}

/* Unconnected, many datagrams, each answered before the next. */
static int in_udp_talk(const char *arg)
{
	char to[64], text[8];
	struct sockaddr_storage ss, from;
	struct pollfd p = { 0, POLLIN, 0 };
	socklen_t len;
	int port;

	sscanf(arg, "%63s %d", to, &port);
	len = address(&ss, to, port);
	p.fd = socket(ss.ss_family, SOCK_DGRAM, 0);
	for (int i = 0; i < 5; i++) {
		socklen_t n = sizeof(from);

		if (sendto(p.fd, "ping", 4, 0, (struct sockaddr *)&ss, len) != 4)
			return errno;
		if (poll(&p, 1, BOUND_MS) != 1)
			return ETIMEDOUT;
		if (recvfrom(p.fd, text, sizeof(text), 0, (struct sockaddr *)&from, &n) != 4)
			return 94;
		if (memcmp(&from, &ss, 8))
			return 95;
	}
	return 0;
}

/* Data in the SYN, without connect. */
static int in_fastopen(const char *arg)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss, FAR4, 443);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&ss, len) < 0
		       ? errno
		       : 0;
}

/* A server of its own, on a low port, reached over loopback and over the own address. */
static int in_own_server(const char *arg)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss, "0.0.0.0", 80);
	int l = socket(AF_INET, SOCK_STREAM, 0), fd;

	if (bind(l, (struct sockaddr *)&ss, len) || listen(l, 1))
		return errno;
	if (dial("127.0.0.1", SOCK_STREAM, 80, &fd) || dial(LAT_TRAP_ADDR4, SOCK_STREAM, 80, &fd))
		return 96;
	return socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) < 0 ? errno : 0;
}

static int inside_errno(uint32_t mark, const char *name, const char *arg)
{
	struct run r = { .mark = mark };
	int status = sandbox_inside(&r, name, arg);

	assert_true(r.queued > 0);
	return status;
}

static void a_refused_syn_has_the_errno_of_a_network(void **state)
{
	assert_int_equal(inside_errno(LAT_MARK_RESET, "tcp", FAR4 " 443"), ECONNREFUSED);
	assert_int_equal(inside_errno(LAT_MARK_HOST_UNREACH, "tcp", FAR4 " 443"), EHOSTUNREACH);
	assert_int_equal(inside_errno(LAT_MARK_NET_UNREACH, "tcp", FAR4 " 443"), ENETUNREACH);
	assert_int_equal(inside_errno(LAT_MARK_PROHIBITED, "tcp", FAR4 " 443"), EHOSTUNREACH);
	if (!has_ipv6())
		return;
	assert_int_equal(inside_errno(LAT_MARK_RESET, "tcp", FAR6 " 443"), ECONNREFUSED);
	assert_int_equal(inside_errno(LAT_MARK_HOST_UNREACH, "tcp", FAR6 " 443"), EHOSTUNREACH);
	assert_int_equal(inside_errno(LAT_MARK_NET_UNREACH, "tcp", FAR6 " 443"), ENETUNREACH);
	assert_int_equal(inside_errno(LAT_MARK_PROHIBITED, "tcp", FAR6 " 443"), EACCES);
}

static void a_refused_datagram_has_the_errno_of_a_network(void **state)
{
	assert_int_equal(inside_errno(LAT_MARK_RESET, "udp", FAR4 " 123"), ECONNREFUSED);
	assert_int_equal(inside_errno(LAT_MARK_PROHIBITED, "udp", FAR4 " 123"), EHOSTUNREACH);
	if (!has_ipv6())
		return;
	assert_int_equal(inside_errno(LAT_MARK_RESET, "udp", FAR6 " 123"), ECONNREFUSED);
	assert_int_equal(inside_errno(LAT_MARK_PROHIBITED, "udp", FAR6 " 123"), EACCES);
}

static void fast_open_waits_for_the_verdict_too(void **state)
{
	struct run r = { .mark = LAT_MARK_RESET };

	assert_int_equal(sandbox_inside(&r, "fastopen", ""), ECONNREFUSED);
	assert_int_equal(r.notified, 0);
	assert_int_equal(r.queued, 1);
}

static struct sockaddr_storage accepted_name;

static void greet(struct run *r, int fd)
{
	socklen_t len = sizeof(accepted_name);

	getsockname(fd, (struct sockaddr *)&accepted_name, &len);
	assert_int_equal(send(fd, "hello", 5, MSG_NOSIGNAL), 5);
}

static void an_accepted_syn_arrives_with_its_destination(void **state)
{
	struct run r = { .mark = LAT_MARK_ACCEPT, .accepted = greet };
	struct lat_addr name, far;
	uint16_t port;

	assert_int_equal(sandbox_inside(&r, "tcp_talk", FAR4 " 443"), 0);
	assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&accepted_name,
				 sizeof(accepted_name), &name, &port),
		0);
	assert_int_equal(lat_addr_parse(FAR4, &far), 0);
	assert_true(lat_addr_equal(&name, &far));
	assert_int_equal(port, 443);
	assert_int_equal(r.queued, 1);
	if (!has_ipv6())
		return;
	r = (struct run){ .mark = LAT_MARK_ACCEPT, .accepted = greet };
	assert_int_equal(sandbox_inside(&r, "tcp_talk", FAR6 " 443"), 0);
	assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&accepted_name,
				 sizeof(accepted_name), &name, &port),
		0);
	assert_int_equal(lat_addr_parse(FAR6, &far), 0);
	assert_true(lat_addr_equal(&name, &far));
}

/* The supervisor's half of a UDP flow: a socket of the pool takes the destination's place. */
static void answer_datagram(struct run *r, const uint8_t *ip, size_t len)
{
	bool v4 = ip[0] >> 4 == 4;
	const uint8_t *udp = ip + (v4 ? (ip[0] & 15) * 4 : 40);
	struct lat_addr client, to;
	struct sockaddr_storage ss;
	socklen_t n;
	int fd = r->pool[0], pid;
	char text[8];

	if (v4) {
		lat_addr_from4(&client, ip + 12);
		lat_addr_from4(&to, ip + 16);
	} else {
		lat_addr_from6(&client, ip + 8);
		lat_addr_from6(&to, ip + 24);
	}
	n = lat_addr_to_sockaddr(&to, (uint16_t)(udp[2] << 8 | udp[3]), has_ipv6(), &ss);
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, n), 0);
	n = lat_addr_to_sockaddr(&client, (uint16_t)(udp[0] << 8 | udp[1]), has_ipv6(), &ss);
	assert_int_equal(connect(fd, (struct sockaddr *)&ss, n), 0);
	fflush(NULL);
	pid = fork();
	if (pid) {
		assert_true(pid > 0);
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fcntl(fd, F_SETFL, 0);
	for (int i = 0; i < 5; i++)
		if (recv(fd, text, sizeof(text), 0) != 4 || send(fd, "pong", 4, 0) != 4)
			_exit(1);
	_exit(0);
}

static void only_the_first_datagram_waits(void **state)
{
	static const char *const to[] = { FAR4 " 5353", FAR6 " 5353" };

	for (int i = 0; i < 1 + has_ipv6(); i++) {
		struct run r = { .mark = LAT_MARK_ACCEPT, .want = 4, .packet = answer_datagram };
		int status;

		assert_int_equal(sandbox_inside(&r, "udp_talk", to[i]), 0);
		assert_int_equal(r.sockets, 4);
		assert_int_equal(r.queued, 1);
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
}

static void what_stays_inside_asks_nobody(void **state)
{
	struct run r = { 0 };

	assert_int_equal(sandbox_inside(&r, "own_server", ""), 0);
	assert_int_equal(r.queued, 0);
}

static void the_relays_listener_cannot_be_called_directly(void **state)
{
	struct run r = { .mark = LAT_MARK_ACCEPT, .accepted = greet };

	memset(&accepted_name, 0, sizeof(accepted_name));
	assert_int_equal(sandbox_inside(&r, "tcp", "127.0.0.1 1"), ECONNREFUSED);
	assert_int_equal(sandbox_inside(&r, "tcp", LAT_TRAP_ADDR4 " 1"), ECONNREFUSED);
	if (has_ipv6())
		assert_int_equal(sandbox_inside(&r, "tcp", "::1 1"), ECONNREFUSED);
	assert_int_equal(accepted_name.ss_family, 0);
}

static void change_ports(struct run *r)
{
	const struct lat_port_span now[] = { { 9000, 9001, 0 } };

	assert_int_equal(lat_launch_host_ports(&r->box, now, 1), 0);
}

static void host_ports_are_asked_for_and_can_be_replaced(void **state)
{
	const struct lat_port_span ports[] = { { 8080, 8080, IPPROTO_TCP },
		{ 8000, 8090, IPPROTO_TCP } };
	struct run r = { .spec = { .host_ports = ports, .host_port_count = 2 },
		.mark = LAT_MARK_HOST_UNREACH };

	assert_int_equal(sandbox_inside(&r, "tcp", "127.0.0.1 8080"), EHOSTUNREACH);
	assert_int_equal(r.queued, 1);
	assert_int_equal(sandbox_inside(&r, "tcp", "127.0.0.1 8091"), ECONNREFUSED);
	assert_int_equal(r.queued, 1);
	assert_int_equal(sandbox_inside(&r, "udp", "127.0.0.1 8080"), ECONNREFUSED);
	assert_int_equal(r.queued, 1);
	r.ready = change_ports;
	assert_int_equal(sandbox_inside(&r, "tcp", "127.0.0.1 8080"), ECONNREFUSED);
	assert_int_equal(r.queued, 1);
	assert_int_equal(sandbox_inside(&r, "tcp", has_ipv6() ? "::1 9001" : "127.0.0.1 9001"),
		EHOSTUNREACH);
	assert_int_equal(r.queued, 2);
}

static void too_many_ranges_of_host_ports_are_refused(void **state)
{
	static struct lat_port_span many[2000];
	struct lat_launch_spec spec = {
		.argv = (char *[]){ "true", NULL }, .host_ports = many, .host_port_count = 2000
	};
	struct lat_sandbox box;
	struct lat_launch_error error;

	for (uint16_t i = 0; i < 2000; i++)
		many[i] =
			(struct lat_port_span){ (uint16_t)(i * 2), (uint16_t)(i * 2), IPPROTO_TCP };
	assert_int_equal(lat_launch(&spec, &box, &error), -E2BIG);
	assert_non_null(strstr(error.text, "host ports"));
}

static void the_self_check_finds_the_wall(void **state)
{
	struct run r = { .probe = true, .refuse = ECONNREFUSED, .mark = LAT_MARK_RESET };

	assert_int_equal(sandbox_run(&r, (const char *[]){ "true", NULL }), 0);
	assert_int_equal(r.probed.extra, LAT_PROBE_COUNT);
	assert_int_equal(r.probed.value, 0);
}

/* A supervisor that lets everything pass is found out. (The datagram it lets go finds no socket,
 * and is refused by that.) */
static void the_self_check_finds_a_hole(void **state)
{
	struct run r = { .probe = true, .mark = LAT_MARK_ACCEPT };

	assert_int_equal(sandbox_run(&r, (const char *[]){ "true", NULL }), 0);
	assert_int_equal(r.probed.value, 1 << LAT_PROBE_CONNECT | 1 << LAT_PROBE_FASTOPEN);
}

static const struct inside table[] = { { "tcp", in_tcp }, { "tcp_talk", in_tcp_talk },
	{ "udp", in_udp }, { "udp_talk", in_udp_talk }, { "fastopen", in_fastopen },
	{ "own_server", in_own_server }, { NULL, NULL } };

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(an_accepted_syn_arrives_with_its_destination),
		cmocka_unit_test(a_refused_syn_has_the_errno_of_a_network),
		cmocka_unit_test(a_refused_datagram_has_the_errno_of_a_network),
		cmocka_unit_test(fast_open_waits_for_the_verdict_too),
		cmocka_unit_test(only_the_first_datagram_waits),
		cmocka_unit_test(what_stays_inside_asks_nobody),
		cmocka_unit_test(the_relays_listener_cannot_be_called_directly),
		cmocka_unit_test(host_ports_are_asked_for_and_can_be_replaced),
		cmocka_unit_test(too_many_ranges_of_host_ports_are_refused),
		cmocka_unit_test(the_self_check_finds_the_wall),
		cmocka_unit_test(the_self_check_finds_a_hole),
	};

	return cmocka_run_group_tests_name("launcher.trap", all, NULL, NULL);
}

int main(int argc, char **argv)
{
	return sandbox_main(argc, argv, table, tests);
}
