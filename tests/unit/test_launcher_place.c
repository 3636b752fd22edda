/* Putting init into its group: it holds before the sandbox's first step, failures of it leave nothing, and
 * the command, whoever calls, has no power. */
#include "support/host_sandbox.h"
#include <linux/capability.h>

static int in_place(const char *arg)
{
	char text[4096];

	if (readlink("/proc/self/ns/net", text, sizeof(text)) <= 0 || strncmp(text, arg, strlen(arg)))
		return WRONG;
	/* The group is the root of the cgroup namespace. */
	if (read_text("/proc/self/cgroup", text, sizeof(text)))
		return WRONG;
	if (group[0] && !strstr(text, "0::/\n"))
		return WRONG;
	if (read_text("/proc/self/status", text, sizeof(text)))
		return WRONG;
	if (!strstr(text, "CapEff:\t0000000000000000\n") || !strstr(text, "CapBnd:\t0000000000000000\n") ||
		!strstr(text, "NoNewPrivs:\t1\n") || !strstr(text, "Seccomp:\t2\n"))
		return WRONG;
	if (read_text("/etc/resolv.conf", text, sizeof(text)) ||
		strcmp(text, "nameserver " LAT_TRAP_DNS "\n"))
		return WRONG;
	return getpid() == 2 ? 0 : WRONG;
}

static void look_at_the_sandbox(struct run *r)
{
	assert_true(r->box.notify >= 0 && r->box.diag >= 0 && r->box.root >= 0);
	assert_true(r->box.listener < 0 && r->box.queue < 0 && r->box.nft < 0);
	assert_true(r->box.raw4 < 0 && r->box.raw6 < 0 && r->box.dns_udp < 0 && r->box.dns_tcp < 0);
	if (group[0])
		assert_int_equal(members(), 2); /* init, and the process that becomes the command */
}

static void the_command_is_in_the_hosts_network_and_in_its_group(void **state)
{
	struct placing p = { 0 };
	struct run r = HOST(&p);
	char net[64] = "";

	r.ready = look_at_the_sandbox;
	assert_true(readlink("/proc/self/ns/net", net, sizeof(net) - 1) > 0);
	assert_int_equal(sandbox_inside(&r, "place", net), 0);
	if (group[0])
		assert_int_equal(members(), 0);
}

static void refused_in(
	enum lat_launch_network network, struct placing *p, int wanted, const char *text)
{
	struct run r = HOST(p);
	struct lat_launch_error error;
	int before = open("/dev/null", O_RDONLY | O_CLOEXEC), after;

	r.spec.network = network;
	r.spec.argv = (char *[]){ "true", NULL };
	r.box.init = 12345;
	assert_int_equal(lat_launch(&r.spec, &r.box, &error), wanted);
	assert_non_null(strstr(error.text, text));
	assert_int_equal(r.box.init, 12345); /* untouched */
	assert_int_equal(kill(p->init, 0), -1);
	after = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(after, before + 1); /* no descriptor is left */
	close(before);
	close(after);
	if (group[0])
		assert_int_equal(members(), 0);
}

static void refused(struct placing p, int wanted, const char *text)
{
	struct placing again = p;

	refused_in(LAT_NETWORK_HOST, &p, wanted, text);
	refused_in(LAT_NETWORK_TRAP, &again, wanted, text);
	assert_int_equal(p.calls + again.calls, 2);
	if (!geteuid() && !p.kill_it)
		assert_true(p.cgroup_ns_before && again.cgroup_ns_before);
}

static void a_failing_place_ends_the_launch(void **state)
{
	refused((struct placing){ .error = -ENOSPC }, -ENOSPC, "the group is full");
}

static void a_slow_place_holds_the_launch(void **state)
{
	struct placing p = { .slow_ms = 300 };
	struct run r = HOST(&p);
	char net[64] = "";

	assert_true(readlink("/proc/self/ns/net", net, sizeof(net) - 1) > 0);
	assert_int_equal(sandbox_inside(&r, "place", net), 0);
	if (!geteuid())
		assert_true(p.cgroup_ns_before);
	r.spec.network = LAT_NETWORK_TRAP;
	assert_int_equal(sandbox_inside(&r, "place", "net:"), 0);
	assert_int_equal(p.calls, 2);
}

static void init_that_dies_while_it_is_placed_ends_the_launch(void **state)
{
	refused((struct placing){ .kill_it = true }, -EPIPE, "ended");
	refused((struct placing){ .kill_it = true, .error = -ESRCH }, -ESRCH, "the group is full");
}

static void the_hosts_network_needs_a_group(void **state)
{
	struct lat_launch_spec spec = { .argv = (char *[]){ "true", NULL },
		.network = LAT_NETWORK_HOST };
	struct lat_launch_error error;
	struct lat_sandbox box;

	assert_int_equal(lat_launch(&spec, &box, &error), -EINVAL);
	assert_true(error.text[0]);
}

/* As file capabilities give them: some power, not root's uid, not dumpable. */
static int with_capabilities(const int *caps, size_t count)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2] = { 0 };
	char net[64] = "";

	for (size_t i = 0; i < count; i++) {
		d[CAP_TO_INDEX(caps[i])].effective |= CAP_TO_MASK(caps[i]);
		d[CAP_TO_INDEX(caps[i])].permitted |= CAP_TO_MASK(caps[i]);
	}
	group[0] = '\0';
	unsetenv("LATTICE_TEST_GROUP");
	if (prctl(PR_SET_KEEPCAPS, 1) || setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
		setresuid(NOBODY, NOBODY, NOBODY) || syscall(SYS_capset, &h, d) ||
		prctl(PR_SET_DUMPABLE, 0) ||
		readlink("/proc/self/ns/net", net, sizeof(net) - 1) <= 0)
		return 98;
	return run("place", net);
}

static void a_caller_with_capabilities_but_not_roots_uid_gives_none_on(void **state)
{
	static const int few[] = { CAP_BPF, CAP_NET_ADMIN },
			 ids[] = { CAP_BPF, CAP_NET_ADMIN, CAP_SETUID, CAP_SETGID, CAP_SETFCAP };
	const struct {
		const int *caps;
		size_t count;
	} cases[] = { { few, COUNT(few) }, { ids, COUNT(ids) } };

	if (geteuid()) {
		print_message("as root alone: it was seen there\n");
		skip();
	}
	for (size_t i = 0; i < COUNT(cases); i++) {
		int status;
		pid_t pid;

		fflush(NULL);
		pid = fork();
		if (pid == 0)
			_exit(with_capabilities(cases[i].caps, cases[i].count));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
}

static const struct inside table[] = { { "place", in_place }, { NULL, NULL } };

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(the_command_is_in_the_hosts_network_and_in_its_group),
		cmocka_unit_test(a_failing_place_ends_the_launch),
		cmocka_unit_test(a_slow_place_holds_the_launch),
		cmocka_unit_test(init_that_dies_while_it_is_placed_ends_the_launch),
		cmocka_unit_test(the_hosts_network_needs_a_group),
		cmocka_unit_test(a_caller_with_capabilities_but_not_roots_uid_gives_none_on),
	};

	return cmocka_run_group_tests_name("launcher.place", all, set_up, tear_down);
}

int main(int argc, char **argv)
{
	return host_main(argc, argv, table, tests);
}
