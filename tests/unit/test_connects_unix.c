/* Mediation of connect(2) to unix sockets, and the races on the caller's memory and descriptors; the stage is that of
 * test_connects.c. Skipped (77) where no user namespace can be made. */
#include "connects_inside.h"
#include <sys/mman.h>
#include <pthread.h>

/* Unix sockets */

static struct sockaddr_un at(const char *format, ...)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	va_list args;

	va_start(args, format);
	vsnprintf(a.sun_path, sizeof(a.sun_path), format, args);
	va_end(args);
	return a;
}

static int unix_listener(const struct sockaddr_un *a, int type, int backlog)
{
	int l = socket(AF_UNIX, type, 0);

	CHECK(bind(l, (void *)a, sizeof(*a)) == 0);
	CHECK(listen(l, backlog) == 0);
	return l;
}

static int unix_try(int type, struct sockaddr_un a)
{
	int s = socket(AF_UNIX, type, 0), r = try(s, &a, sizeof(a));

	close(s);
	return r;
}

static void play_unix(void)
{
	struct sockaddr_un in = at("%s/in", sup.dir), seq = at("%s/seq", sup.dir), abstract = at("%cinside", 0);
	int l = unix_listener(&in, SOCK_STREAM, 64), l2 = unix_listener(&seq, SOCK_SEQPACKET, 8), s, bound;
	char link[200];

	abstract = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(abstract.sun_path, "\0inside", 7);
	unix_listener(&abstract, SOCK_STREAM, 8);
	CHECK(unix_try(SOCK_STREAM, in) == 0);
	CHECK(unix_try(SOCK_SEQPACKET, seq) == 0);
	CHECK(unix_try(SOCK_SEQPACKET, in) == EPROTOTYPE);
	CHECK(unix_try(SOCK_STREAM, abstract) == 0);
	CHECK(chdir(sup.dir) == 0);
	CHECK(unix_try(SOCK_STREAM, at("in")) == 0);
	CHECK(unix_try(SOCK_STREAM, at("../%s/in", strrchr(sup.dir, '/') + 1)) == 0);
	snprintf(link, sizeof(link), "%s/link", sup.dir);
	CHECK(symlink("in", link) == 0);
	CHECK(unix_try(SOCK_STREAM, at("%s", link)) == 0);
	CHECK(unix_try(SOCK_STREAM, at("link")) == 0);
	unlink(link);
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(try(s, &in, sizeof(sa_family_t)) == EINVAL);
	CHECK(try(s, &in, sizeof(in) + 1) == EINVAL);
	CHECK(try(s, &(struct sockaddr_in){ .sin_family = AF_INET }, sizeof(struct sockaddr_in)) == EINVAL);
	CHECK(try(s, &in, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(in.sun_path))) == 0);
	CHECK(try(s, &in, sizeof(in)) == EISCONN);
	close(s);
	CHECK(unix_try(SOCK_STREAM, at("%s/nowhere", sup.dir)) == ENOENT);
	CHECK(unix_try(SOCK_STREAM, at("%s/in/x", sup.dir)) == ENOTDIR);
	CHECK(unix_try(SOCK_STREAM, at("%s", sup.dir)) == ECONNREFUSED);
	close(l2);
	CHECK(unix_try(SOCK_STREAM, seq) == ECONNREFUSED); /* a stale file */
	unlink(seq.sun_path);
	bound = socket(AF_UNIX, SOCK_STREAM, 0); /* bound, not listening */
	CHECK(bind(bound, (void *)&seq, sizeof(seq)) == 0);
	CHECK(unix_try(SOCK_STREAM, seq) == ECONNREFUSED);
	unlink(seq.sun_path);
	unlink(in.sun_path);
	close(l);
}

static void unix_sockets_inside_are_reached(void **state)
{
	assert_int_equal(run(play_unix), 0);
	assert_int_equal(sup.stats.unix_inside, 8 + 1); /* EISCONN too */
	assert_int_equal(sup.stats.errors, 0);
}

static void play_outside(void)
{
	struct sockaddr_un out = at("%s", sup.outside);
	char name[200];

	CHECK(unix_try(SOCK_STREAM, out) == EACCES);
	snprintf(name, sizeof(name), "%s/link", sup.dir);
	CHECK(symlink(sup.outside, name) == 0);
	CHECK(unix_try(SOCK_STREAM, at("%s", name)) == EACCES);
	unlink(name);
	CHECK(link(sup.outside, name) == 0);
	CHECK(unix_try(SOCK_STREAM, at("%s", name)) == EACCES);
	unlink(name);
	CHECK(unix_try(SOCK_STREAM, at("/proc/self/root%s", sup.outside)) != 0);
	CHECK(unix_try(SOCK_STREAM, at("/proc/1/root%s", sup.outside)) != 0);
}

static void unix_sockets_outside_are_refused(void **state)
{
	assert_int_equal(run(play_outside), 0);
	assert_int_equal(sup.stats.unix_refused, 3);
	assert_int_equal(sup.reached, 0);
	assert_string_equal(sup.path + strlen(sup.path) - 5, "/link");
	assert_string_equal(sup.bound, sup.outside); /* what its listener chose, not what the program made of it */
}

static void play_allowed(void)
{
	struct sockaddr_un out = at("%s", sup.outside);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(try(s, &out, sizeof(out)) == 0);
	/* The embryo of this connect lives here and carries the outside file: it must not make the file an inside one. */
	sup.allow[0] = '\0';
	say(0, 0);
	hear();
	CHECK(unix_try(SOCK_STREAM, out) == EACCES);
	close(s);
}

static void forbid(void)
{
	sup.allow[0] = '\0';
}

static void a_unix_rule_opens_one_socket_and_no_more(void **state)
{
	snprintf(sup.allow, sizeof(sup.allow), "%s", sup.outside);
	sup.when_said = forbid;
	assert_int_equal(run(play_allowed), 0);
	assert_int_equal(sup.stats.unix_refused, 1);
	assert_int_equal(sup.reached, 1);
}

static void *accept_later(void *arg)
{
	hear();
	for (int i = 0; i < 2; i++)
		close(accept(*(int *)arg, NULL, NULL));
	return NULL;
}

static void play_backlog(void)
{
	struct sockaddr_un in = at("%s/in", sup.dir);
	int l = unix_listener(&in, SOCK_STREAM, 0), s[3], flags;
	pthread_t t;

	for (int i = 0; i < 3; i++)
		s[i] = socket(AF_UNIX, SOCK_STREAM | (i < 2 ? SOCK_NONBLOCK : 0), 0);
	CHECK(try(s[0], &in, sizeof(in)) == 0);
	CHECK(try(s[1], &in, sizeof(in)) == EAGAIN);
	flags = fcntl(s[2], F_GETFL);
	pthread_create(&t, NULL, accept_later, &l);
	CHECK(try(s[2], &in, sizeof(in)) == 0);
	CHECK(fcntl(s[2], F_GETFL) == flags);
	pthread_join(t, NULL); /* both accepted: there is room */
	CHECK(try(s[1], &in, sizeof(in)) == 0);
	unlink(in.sun_path);
}

static void a_full_backlog_is_waited_for(void **state)
{
	sup.tell_when_busy = true;
	assert_int_equal(run(play_backlog), 0);
}

/* Races on the caller's memory and descriptors */

union any {
	struct sockaddr_un un;
	struct sockaddr_in in;
};
static union any shared, choice[3];
static volatile bool over;

static void *flip_address(void *arg)
{
	for (unsigned i = 0; !over; i++)
		memcpy(&shared, &choice[i % 3], sizeof(shared));
	return NULL;
}

static void play_flip(void)
{
	pthread_t t;

	memset(choice, 0, sizeof(choice));
	choice[0].un.sun_family = AF_UNIX;
	memcpy(choice[0].un.sun_path, "\0nobody", 7);
	choice[1].un = at("%s", sup.outside);
	choice[2].in = loop4(9);
	over = false;
	pthread_create(&t, NULL, flip_address, NULL);
	for (int i = 0; i < 4000; i++) {
		int s = socket(i & 1 ? AF_INET : AF_UNIX, SOCK_STREAM, 0);

		connect(s, (void *)&shared, sizeof(shared.un));
		close(s);
	}
	over = true;
	pthread_join(t, NULL);
}

static void flipping_the_address_reaches_nothing_outside(void **state)
{
	assert_int_equal(run(play_flip), 0);
	assert_int_equal(sup.reached, 0);
	assert_int_equal(sup.stats.notified, 4000);
}

static int slot, one_unix, one_inet;

static void *flip_descriptor(void *arg)
{
	while (!over) {
		dup2(one_inet, slot);
		dup2(one_unix, slot);
	}
	return NULL;
}

static void play_dup2(void)
{
	struct sockaddr_un out = at("%s", sup.outside);
	pthread_t t;

	one_unix = socket(AF_UNIX, SOCK_STREAM, 0);
	one_inet = socket(AF_INET, SOCK_STREAM, 0);
	slot = dup(one_inet);
	over = false;
	pthread_create(&t, NULL, flip_descriptor, NULL);
	for (int i = 0; i < 4000; i++)
		CHECK(connect(slot, (void *)&out, sizeof(out)) < 0);
	over = true;
	pthread_join(t, NULL);
}

static void swapping_the_descriptor_reaches_nothing_outside(void **state)
{
	assert_int_equal(run(play_dup2), 0);
	assert_int_equal(sup.reached, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(unix_sockets_inside_are_reached),
		T(unix_sockets_outside_are_refused),
		T(a_unix_rule_opens_one_socket_and_no_more),
		T(a_full_backlog_is_waited_for),
		T(flipping_the_address_reaches_nothing_outside),
		T(swapping_the_descriptor_reaches_nothing_outside),
	};

	if (!can_run())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
