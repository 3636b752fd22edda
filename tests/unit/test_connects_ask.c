/* Mediation of connect(2) in kernel mode: calls that are held until a question is answered, and unix sockets of a network
 * namespace that is not the sandbox's alone. Skipped (77) where no user namespace can be made. */
#include "connects_inside.h"

static void play_tcp(void)
{
	struct sockaddr_in a = loop4(0), held = alias4(HELD_PORT), refused = alias4(REFUSED_PORT), closed = loop4(1);
	int l = listener(&a, 8), h = listener(&held, 8), s;

	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &a, sizeof(a)) == 0);
	close(s);
	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &closed, sizeof(closed)) == ECONNREFUSED);
	close(s);
	s = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(try(s, &refused, sizeof(refused)) == ENETUNREACH);
	CHECK(try(s, &held, sizeof(held)) == 0);
	CHECK(write(s, "x", 1) == 1);
	close(s);
	s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(try(s, &held, sizeof(held)) == EINPROGRESS);
	CHECK(poll(&(struct pollfd){ s, POLLOUT, 0 }, 1, 5000) == 1);
	CHECK(so_error(s) == 0);
	CHECK(fcntl(s, F_GETFL) & O_NONBLOCK);
	close(s);
	close(l);
	close(h);
}

static void a_held_call_is_made_when_the_answer_lets_it(void **state)
{
	sup.kernel = true;
	assert_int_equal(run(play_tcp), 0);
	assert_int_equal(sup.asked, 3);
	assert_int_equal(sup.flow.proto, IPPROTO_TCP);
	assert_int_equal(sup.flow.dport, HELD_PORT);
	assert_int_equal(sup.who.pid, sup.child);
	assert_int_equal(sup.stats.errors, 0);
	assert_false(sup.still_busy);
}

static void play_denied(void)
{
	struct sockaddr_in held = alias4(HELD_PORT), a = loop4(0);
	int l = listener(&a, 8), s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(try(s, &held, sizeof(held)) == EHOSTUNREACH);
	CHECK(try(s, &a, sizeof(a)) == 0); /* the socket is as it was */
	CHECK(try(u, &held, sizeof(held)) == EHOSTUNREACH);
	CHECK(try(u, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr)) == 0);
	close(l);
}

static void a_held_call_fails_with_the_errno_of_the_answer(void **state)
{
	sup.kernel = true;
	sup.answer = EHOSTUNREACH;
	assert_int_equal(run(play_denied), 0);
	assert_int_equal(sup.asked, 2);
	assert_int_equal(sup.flow.proto, IPPROTO_UDP);
	assert_false(sup.still_busy);
}

static socklen_t abstract(struct sockaddr_un *a, const char *name)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(a->sun_path + 1, name, strlen(name));
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

/* Another process of the namespace, which is not of the sandbox, listens on "theirs". */
static void play_abstract(void)
{
	struct sockaddr_un a;
	socklen_t n = abstract(&a, "theirs");
	int l = socket(AF_UNIX, SOCK_STREAM, 0), pair[2], s;
	pid_t other;
	char c;

	CHECK(pipe(pair) == 0);
	CHECK(bind(l, (void *)&a, n) == 0 && listen(l, 8) == 0);
	other = fork();
	if (other == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(write(pair[1], "x", 1) == 1);
		pause();
		_exit(0);
	}
	CHECK(read(pair[0], &c, 1) == 1);
	close(l);
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(try(s, &a, n) == EACCES);
	n = abstract(&a, "their"); /* a part of the name is another name */
	CHECK(try(s, &a, n) == ECONNREFUSED);
	n = abstract(&a, "ours");
	l = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(l, (void *)&a, n) == 0 && listen(l, 8) == 0);
	CHECK(try(s, &a, n) == 0);
	kill(other, SIGKILL);
	CHECK(waitpid(other, NULL, 0) == other);
}

static void abstract_names_of_others_are_refused(void **state)
{
	sup.kernel = true;
	assert_int_equal(run(play_abstract), 0);
	assert_string_equal(sup.path, "@theirs");
	assert_int_equal(sup.stats.unix_refused, 1);
	assert_int_equal(sup.stats.unix_inside, 1);
}

static void play_paths(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, SOCK_STREAM, 0), s = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, sup.outside);
	CHECK(try(s, &a, sizeof(a)) == EACCES);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/in", sup.dir);
	CHECK(bind(l, (void *)&a, sizeof(a)) == 0 && listen(l, 8) == 0);
	CHECK(try(s, &a, sizeof(a)) == 0);
}

static void paths_are_inside_by_who_holds_the_listener(void **state)
{
	sup.kernel = true;
	assert_int_equal(run(play_paths), 0);
	assert_int_equal(sup.reached, 0);
	assert_int_equal(sup.stats.unix_inside, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_held_call_is_made_when_the_answer_lets_it),
		T(a_held_call_fails_with_the_errno_of_the_answer),
		T(abstract_names_of_others_are_refused),
		T(paths_are_inside_by_who_holds_the_listener),
	};

	if (!can_run()) {
		puts("user namespaces or seccomp notifications cannot be had here");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
