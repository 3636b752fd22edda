/* Mediation of connect(2): a child in its own user and network namespace, its connect(2) trapped by a filter of its own,
 * plays programs of every kind; the parent is the supervisor. Skipped (77) where no user namespace can be made. */
#include "connects_inside.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

/* TCP */

static void play_tcp(void)
{
	struct sockaddr_in a = loop4(0), closed = loop4(0), refused = alias4(REFUSED_PORT);
	int l = listener(&a, 8), s, l2 = listener(&closed, 1), flags;

	close(l2);
	s = socket(AF_INET, SOCK_STREAM, 0);
	flags = fcntl(s, F_GETFL);
	CHECK(try(s, &a, sizeof(a)) == 0);
	CHECK(fcntl(s, F_GETFL) == flags);
	CHECK(try(s, &a, sizeof(a)) == EISCONN);
	CHECK(write(s, "x", 1) == 1);
	close(s);

	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &closed, sizeof(closed)) == ECONNREFUSED);
	CHECK(fcntl(s, F_GETFL) == flags);
	CHECK(try(s, &a, sizeof(a)) == 0); /* and the socket may be used again */
	close(s);

	s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(try(s, &a, sizeof(a)) == EINPROGRESS);
	CHECK(poll(&(struct pollfd){ s, POLLOUT, 0 }, 1, 5000) == 1);
	CHECK(so_error(s) == 0);
	CHECK(fcntl(s, F_GETFL) & O_NONBLOCK);
	close(s);

	s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(try(s, &closed, sizeof(closed)) == EINPROGRESS);
	CHECK(poll(&(struct pollfd){ s, POLLOUT, 0 }, 1, 5000) == 1);
	CHECK(so_error(s) == ECONNREFUSED);
	close(s);

	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &refused, sizeof(refused)) == ENETUNREACH);
	CHECK(try(s, &a, sizeof(a)) == 0);
	close(s);
	close(l);
}

static void tcp_connects_are_as_without_us(void **state)
{
	assert_int_equal(run(play_tcp), 0);
	assert_int_equal(sup.asked, 1);
	assert_int_equal(sup.flow.dport, REFUSED_PORT);
	assert_int_equal(sup.who.pid, sup.child);
	assert_int_equal(sup.who.uid, geteuid());
	assert_non_null(strstr(sup.who.exe, "test_connects"));
	assert_int_equal(sup.stats.refused, 1);
	assert_int_equal(sup.stats.errors, 0);
}

static void play_identity(void)
{
	struct sockaddr_in a = alias4(0);
	int l = listener(&a, 8), s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in own;
	socklen_t n = sizeof(own);

	CHECK(try(s, &a, sizeof(a)) == 0);
	CHECK(getsockname(s, (void *)&own, &n) == 0);
	say(ntohs(own.sin_port), ntohs(a.sin_port));
	CHECK(bind(u, (struct sockaddr *)&(struct sockaddr_in){ .sin_family = AF_INET }, sizeof(own)) == 0);
	CHECK(getsockname(u, (void *)&own, &n) == 0);
	say(ntohs(own.sin_port), 53);
	hear();
	close(l);
}

static void identity_after_tcp(void)
{
	struct lat_flow f = { .proto = IPPROTO_TCP };
	struct lat_identity who;

	lat_addr_parse(ALIAS, &f.remote);
	lat_addr_parse(ALIAS, &f.local);
	f.sport = sup.said[0];
	f.dport = sup.said[1];
	assert_true(lat_connects_identify(sup.connects, &f, &who));
	assert_int_equal(who.pid, sup.child);
	assert_non_null(strstr(who.exe, "test_connects"));
	f.sport ^= 1;
	assert_false(lat_connects_identify(sup.connects, &f, &who));
	assert_int_equal(who.pid, 0);
	f.proto = IPPROTO_UDP; /* never connected: from the namespace's own tables */
	f.sport = sup.said[2];
	f.dport = 53;
	assert_true(lat_connects_identify(sup.connects, &f, &who));
	assert_int_equal(who.pid, sup.child);
}

static void a_flow_is_traced_to_its_process(void **state)
{
	sup.when_said = identity_after_tcp;
	assert_int_equal(run(play_identity), 0);
	assert_int_equal(sup.said_count, 4);
}

static sem_t caught;

static void catch(int number)
{
	sem_post(&caught);
}

/* A listener whose queue is full drops each SYN: connects to it hang. */
static int full_listener(struct sockaddr_in *at)
{
	int l = listener(at, 0), s = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(try(s, at, sizeof(*at)) == 0);
	return l;
}

struct kick {
	pthread_t target;
	int listener;
};

/* Waits until the target thread sits in its call, then sends the signal; then makes room. */
static void *kick(void *arg)
{
	struct kick *k = arg;

	hear(); /* the supervisor has begun to wait */
	pthread_kill(k->target, SIGUSR1);
	while (sem_wait(&caught)) /* room made earlier would let the first attempt succeed */
		;
	for (int i = 0; i < 2; i++)
		close(accept(k->listener, NULL, NULL));
	return NULL;
}

static void signal_case(int flags)
{
	struct sigaction act = { .sa_handler = catch, .sa_flags = flags };
	struct sockaddr_in a = loop4(0);
	int l = full_listener(&a), s, r;
	struct kick k = { .target = pthread_self(), .listener = l };
	pthread_t t;

	say(1, 1);
	sem_init(&caught, 0, 0);
	sigaction(SIGUSR1, &act, NULL);
	s = socket(AF_INET, SOCK_STREAM, 0);
	pthread_create(&t, NULL, kick, &k);
	r = try(s, &a, sizeof(a));
	if (flags & SA_RESTART) {
		CHECK(r == 0);
	} else {
		CHECK(r == EINTR);
		CHECK(try(s, &a, sizeof(a)) == 0); /* the attempt went on: wait for its end */
	}
	pthread_join(t, NULL);
}

static void play_restart(void)
{
	signal_case(SA_RESTART);
}

static void play_interrupt(void)
{
	signal_case(0);
}

static void a_restarted_connect_goes_on_after_the_signal(void **state)
{
	sup.tell_when_busy = true;
	sup.tell_after = 2;
	assert_int_equal(run(play_restart), 0);
	assert_true(sup.stats.gone >= 1);
}

static void an_interrupted_connect_gives_eintr(void **state)
{
	sup.tell_when_busy = true;
	sup.tell_after = 2;
	assert_int_equal(run(play_interrupt), 0);
	assert_true(sup.stats.gone >= 1);
}

static void play_timeout(void)
{
	struct sockaddr_in a = loop4(0);
	struct timeval tv = { .tv_usec = 200000 };
	int l = full_listener(&a), s = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	CHECK(try(s, &a, sizeof(a)) == EINPROGRESS);
	close(l);
}

static void a_send_timeout_bounds_the_connect(void **state)
{
	assert_int_equal(run(play_timeout), 0);
}

static void play_die(void)
{
	struct sockaddr_in a = loop4(0);
	int l = full_listener(&a), s = socket(AF_INET, SOCK_STREAM, 0);

	alarm(1);
	try(s, &a, sizeof(a));
	CHECK(l < 0); /* not reached */
}

static void a_dead_caller_leaves_nothing_behind(void **state)
{
	assert_int_equal(run(play_die), 128 + SIGALRM);
	assert_false(sup.still_busy);
}

static void *clear_nonblock(void *arg)
{
	int fd = *(int *)arg;

	while (fcntl(fd, F_SETFL, 0) == 0)
		;
	return NULL;
}

static void play_hostile_flags(void)
{
	struct sockaddr_in a = loop4(0);
	struct timeval tv = { .tv_usec = 300000 };
	int l = full_listener(&a), s;
	pthread_t t;

	for (int i = 0; i < 5; i++) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
		pthread_create(&t, NULL, clear_nonblock, &s);
		try(s, &a, sizeof(a));
		close(s);
		pthread_join(t, NULL);
	}
	close(l);
}

static void clearing_nonblock_does_not_stop_the_supervisor(void **state)
{
	assert_int_equal(run(play_hostile_flags), 0);
	assert_true(sup.longest_ns < 150 * LAT_NS_PER_MS);
}

/* Forms of the address */

static void play_forms(void)
{
	struct sockaddr_storage big = { 0 };
	struct sockaddr_in a = loop4(0), any = loop4(0);
	struct sockaddr_in6 six = { .sin6_family = AF_INET6 }, mapped = { .sin6_family = AF_INET6 };
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int l = listener(&a, 16), s, on = 0, p[2];
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(&big, &a, sizeof(a));
	munmap(page + 4096, 4096);
	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &a, 0) == EINVAL);
	CHECK(try(s, &a, (socklen_t)-1) == EINVAL);
	CHECK(try(s, &big, 129) == EINVAL);
	CHECK(try(s, &a, 15) == EINVAL);
	CHECK(try(s, page + 4096 - 8, sizeof(a)) == EFAULT);
	CHECK(try(s, (void *)8, sizeof(a)) == EFAULT);
	CHECK(try(-1, &a, sizeof(a)) == EBADF);
	CHECK(try(4000, &a, sizeof(a)) == EBADF);
	CHECK(pipe(p) == 0 && try(p[0], &a, sizeof(a)) == ENOTSOCK);
	memcpy(page + 4096 - sizeof(a), &a, sizeof(a));
	CHECK(try(s, page + 4096 - sizeof(a), sizeof(a)) == 0);
	CHECK(try(s, &none, sizeof(none)) == 0); /* dissolved */
	CHECK(try(s, &big, 128) == 0);
	close(s);

	any.sin_port = a.sin_port;
	any.sin_addr.s_addr = 0;
	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &any, sizeof(any)) == 0);
	close(s);

	s = socket(AF_INET6, SOCK_STREAM, 0);
	CHECK(try(s, &a, sizeof(a)) == EAFNOSUPPORT || errno == EINVAL);
	mapped.sin6_port = a.sin_port;
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
	CHECK(try(s, &mapped, sizeof(mapped)) == 0);
	close(s);
	inet_pton(AF_INET6, "::ffff:" ALIAS, &mapped.sin6_addr);
	mapped.sin6_port = htons(REFUSED_PORT);
	s = socket(AF_INET6, SOCK_STREAM, 0);
	CHECK(try(s, &mapped, sizeof(mapped)) == ENETUNREACH); /* judged as the IPv4 address that it is */
	close(s);

	l = socket(AF_INET6, SOCK_STREAM, 0);
	setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	CHECK(bind(l, (void *)&six, sizeof(six)) == 0 && listen(l, 4) == 0);
	CHECK(getsockname(l, (void *)&six, &(socklen_t){ sizeof(six) }) == 0);
	s = socket(AF_INET6, SOCK_STREAM, 0);
	CHECK(try(s, &six, sizeof(six)) == 0); /* :: is the own host */
	close(s);
	s = socket(AF_INET6, SOCK_STREAM, 0);
	CHECK(try(s, &six, 20) == EINVAL);
	CHECK(try(s, &six, 24) == 0);
	close(s);
}

static void every_form_of_address_ends_as_in_the_kernel(void **state)
{
	assert_int_equal(run(play_forms), 0);
	assert_int_equal(sup.stats.errors, 0);
	assert_int_equal(sup.asked, 1);
	assert_true(lat_addr_is4(&sup.flow.remote));
}

static void play_udp(void)
{
	struct sockaddr_in a = alias4(REFUSED_PORT), peer;
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	struct sockaddr_in6 mapped = { .sin6_family = AF_INET6, .sin6_port = htons(9) };
	socklen_t n = sizeof(peer);
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(try(s, &a, sizeof(a)) == 0); /* nothing is sent yet: the wall judges the datagrams */
	CHECK(getpeername(s, (void *)&peer, &n) == 0 && peer.sin_port == a.sin_port);
	CHECK(try(s, &none, sizeof(none)) == 0);
	CHECK(getpeername(s, (void *)&peer, &n) < 0);
	close(s);
	s = socket(AF_INET6, SOCK_DGRAM, 0);
	inet_pton(AF_INET6, "::ffff:" ALIAS, &mapped.sin6_addr);
	CHECK(try(s, &mapped, sizeof(mapped)) == 0);
	CHECK(try(s, &a, sizeof(a)) == 0);
	close(s);
}

static void udp_is_connected_without_a_question(void **state)
{
	assert_int_equal(run(play_udp), 0);
	assert_int_equal(sup.asked, 0);
}

static void play_foreign(void)
{
	struct sockaddr_in a = loop4(9);
	struct sockaddr_nl nl = { .nl_family = AF_NETLINK }, other = { .nl_family = AF_NETLINK, .nl_pid = 77 };
	int n = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

	CHECK(try(sup.host_socket, &a, sizeof(a)) == EACCES);
	CHECK(try(n, &nl, sizeof(nl)) == 0);
	CHECK(try(n, &other, sizeof(other)) == EPERM);
}

static void a_socket_of_another_namespace_is_refused(void **state)
{
	assert_int_equal(run(play_foreign), 0);
	assert_int_equal(sup.failed, 1);
	assert_int_equal(sup.stats.errors, 1);
}

static void play_speed(void)
{
	struct sockaddr_in a = alias4(0);
	int l = listener(&a, 4096);

	for (int i = 0; i < 4000; i++) {
		int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

		CHECK(try(s, &a, sizeof(a)) == EINPROGRESS);
		close(s);
	}
	close(l);
}

static void a_connect_is_cheap(void **state)
{
	struct rusage a, b;
	double us;

	getrusage(RUSAGE_SELF, &a);
	assert_int_equal(run(play_speed), 0);
	getrusage(RUSAGE_SELF, &b);
	us = ((double)(b.ru_utime.tv_sec - a.ru_utime.tv_sec + b.ru_stime.tv_sec - a.ru_stime.tv_sec) * 1e6 +
		     (double)(b.ru_utime.tv_usec - a.ru_utime.tv_usec + b.ru_stime.tv_usec - a.ru_stime.tv_usec)) / 4000;
	print_message("supervisor: %.1f us of CPU a TCP connect (the SYN and its answer on loopback included)\n", us);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(tcp_connects_are_as_without_us),
		T(a_flow_is_traced_to_its_process),
		T(a_restarted_connect_goes_on_after_the_signal),
		T(an_interrupted_connect_gives_eintr),
		T(a_send_timeout_bounds_the_connect),
		T(a_dead_caller_leaves_nothing_behind),
		T(clearing_nonblock_does_not_stop_the_supervisor),
		T(every_form_of_address_ends_as_in_the_kernel),
		T(udp_is_connected_without_a_question),
		T(a_socket_of_another_namespace_is_refused),
		T(a_connect_is_cheap),
	};

	if (!can_run())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
