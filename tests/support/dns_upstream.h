/* A scripted name server for the unit tests, in a thread, on 127.0.0.1:53 of the test's own
 * namespaces; and those namespaces: an own network with loopback only, own resolv.conf and hosts
 * bound over. What a name's first label says is what the server does. */
#ifndef LAT_TEST_DNS_UPSTREAM_H
#define LAT_TEST_DNS_UPSTREAM_H
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct upstream {
	int udp, tcp, stop[2];
	pthread_t thread;
	pthread_mutex_t lock;
	char seen[65536]; /* "name/type " for each query, as asked */
};

static inline void put_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
		perror(path);
		exit(1);
	}
	close(fd);
}

/* Binds a file with `text` over `path`, in this mount namespace only. */
static inline void cover(const char *path, const char *text)
{
	char from[] = "/tmp/lat-test-XXXXXX", real[4096];
	int fd = mkstemp(from);

	if (fd < 0 || !realpath(path, real)) {
		perror(path);
		exit(1);
	}
	close(fd);
	put_file(from, text);
	if (mount(from, real, NULL, MS_BIND, NULL) < 0) {
		perror("mount --bind");
		exit(1);
	}
	unlink(from);
}

/* Own user (unless root), network and mount namespaces. Exits with 77 where the host has none to
 * give. */
static inline void enter_namespaces(void)
{
	struct ifreq ifr = {.ifr_name = "lo"};
	unsigned uid = getuid(), gid = getgid();
	char map[64];
	int s;

	if (unshare(CLONE_NEWNET | CLONE_NEWNS | (uid ? CLONE_NEWUSER : 0)) < 0) {
		fprintf(stderr, "skip: no namespaces here: %s\n", strerror(errno));
		exit(77);
	}
	if (uid) {
		put_file("/proc/self/setgroups", "deny");
		snprintf(map, sizeof(map), "0 %u 1", uid);
		put_file("/proc/self/uid_map", map);
		snprintf(map, sizeof(map), "0 %u 1", gid);
		put_file("/proc/self/gid_map", map);
	}
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || s < 0 ||
		ioctl(s, SIOCGIFFLAGS, &ifr) < 0) {
		perror("namespace");
		exit(1);
	}
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
		exit(1);
	close(s);
	cover("/etc/resolv.conf", "search search.example\nnameserver 127.0.0.1\n");
	cover("/etc/hosts", "203.0.113.77 fromhosts.example\n2001:db8::77 fromhosts.example\n"
			    "203.0.113.78 four.fromhosts.example\n");
}

/* A message being written. Names are text; `owner` NULL is the question's name. */
struct script {
	unsigned char b[65535];
	size_t n;
	unsigned answers;
};

static inline void put_name(struct script *m, const char *name)
{
	while (*name) {
		size_t l = strcspn(name, ".");

		m->b[m->n++] = (unsigned char)l;
		memcpy(m->b + m->n, name, l);
		m->n += l;
		name += l + (name[l] == '.');
	}
	m->b[m->n++] = 0;
}

static inline void put_head(struct script *m, const char *owner, unsigned type, unsigned ttl)
{
	if (owner) {
		put_name(m, owner);
	} else {
		m->b[m->n++] = 0xc0;
		m->b[m->n++] = 12;
	}
	memcpy(m->b + m->n,
		(unsigned char[]){type >> 8, type, 0, 1, ttl >> 24, ttl >> 16, ttl >> 8, ttl}, 8);
	m->n += 8;
	m->answers++;
}

static inline void put_addr(struct script *m, const char *owner, unsigned ttl, const char *text)
{
	unsigned char raw[16];
	int six = inet_pton(AF_INET6, text, raw) == 1;

	if (!six)
		inet_pton(AF_INET, text, raw);
	put_head(m, owner, six ? 28 : 1, ttl);
	m->b[m->n++] = 0;
	m->b[m->n++] = six ? 16 : 4;
	memcpy(m->b + m->n, raw, six ? 16 : 4);
	m->n += six ? 16 : 4;
}

static inline void put_alias(struct script *m, const char *owner, unsigned ttl, const char *target)
{
	size_t at;

	put_head(m, owner, 5, ttl);
	at = m->n;
	m->n += 2;
	put_name(m, target);
	m->b[at] = (unsigned char)((m->n - at - 2) >> 8);
	m->b[at + 1] = (unsigned char)(m->n - at - 2);
}

/* Fills *m for the question; returns false for silence. */
static inline int script(struct script *m, const char *name, unsigned type, int tcp)
{
	size_t l = strcspn(name, ".");
	char text[64], label[64];
	unsigned rcode = 0;

	snprintf(label, sizeof(label), "%.*s", (int)l, name);
	if (!strcmp(label, "silent"))
		return 0;
	if (!strcmp(label, "nx"))
		rcode = 3;
	else if (!strcmp(label, "servfail"))
		rcode = 2;
	else if (!strcmp(label, "garbage")) {
		for (size_t i = m->n; i < 200; i++)
			m->b[i] = (unsigned char)(i * 131);
		m->n = 200;
		m->answers = 9;
	} else if (!strcmp(label, "huge")) {
		if (!tcp)
			m->b[2] |= 2;
		else
			while (m->n + 16 < sizeof(m->b))
				put_addr(m, NULL, 60, "203.0.113.9");
	} else if (type == 28) {
		if (!strcmp(label, "plain"))
			put_addr(m, NULL, 60, "2001:db8::1");
		else if (!strcmp(label, "mapped"))
			put_addr(m, NULL, 60, "::ffff:10.0.0.1");
		else if (!strcmp(label, "private"))
			put_addr(m, NULL, 60, "fd00::1");
	} else if (type == 1) {
		if (!strcmp(label, "plain") || !strcmp(label, "mixed")) {
			put_addr(m, NULL, 60, "203.0.113.1");
		} else if (!strcmp(label, "folding")) { /* does not give the case back */
			for (size_t i = 12; i < m->n - 4; i++)
				m->b[i] = (unsigned char)tolower(m->b[i]);
			put_addr(m, NULL, 60, tcp ? "203.0.113.8" : "203.0.113.99");
		} else if (!strcmp(label, "many")) {
			for (int i = 0; i < 100; i++) {
				snprintf(text, sizeof(text), "203.0.113.%d", i);
				if (tcp || m->n < 1100)
					put_addr(m, NULL, 60, text);
			}
			if (!tcp)
				m->b[2] |= 2;
		} else if (!strcmp(label, "forty")) {
			for (int i = 0; i < 40; i++) {
				snprintf(text, sizeof(text), "203.0.113.%d", i);
				put_addr(m, NULL, 60, text);
			}
		} else if (!strcmp(label, "chain")) {
			put_alias(m, NULL, 120, "one.chain.example");
			put_alias(m, "One.chain.example", 300, "two.other.example");
			put_addr(m, "two.other.example", 30, "203.0.113.2");
		} else if (!strcmp(label, "backwards")) {
			put_addr(m, "two.other.example", 30, "203.0.113.2");
			put_alias(m, "one.chain.example", 300, "two.other.example");
			put_alias(m, NULL, 120, "one.chain.example");
		} else if (!strcmp(label, "loop")) {
			put_alias(m, NULL, 60, "l1.example");
			put_alias(m, "l1.example", 60, "l2.example");
			put_alias(m, "l2.example", 60, name);
		} else if (!strcmp(label, "long")) {
			put_alias(m, NULL, 60, "n0.example");
			for (int i = 0; i < 30; i++) {
				char a[32], b[32];

				snprintf(a, sizeof(a), "n%d.example", i);
				snprintf(b, sizeof(b), "n%d.example", i + 1);
				put_alias(m, a, 60, b);
			}
			put_addr(m, "n30.example", 60, "203.0.113.3");
		} else if (!strcmp(label, "stranger")) {
			put_addr(m, "bank.example", 60, "203.0.113.66");
			put_addr(m, NULL, 60, "203.0.113.4");
		} else if (!strcmp(label, "dangling")) {
			put_alias(m, NULL, 60, "gone.example");
		} else if (!strcmp(label, "zero")) {
			put_addr(m, NULL, 0, "203.0.113.5");
		} else if (!strcmp(label, "private")) {
			put_addr(m, NULL, 60, "10.0.0.1");
			put_addr(m, NULL, 60, "203.0.113.6");
			put_addr(m, NULL, 60, "169.254.169.254");
		} else if (!strcmp(label, "rebind")) {
			put_addr(m, NULL, 1, "127.0.0.1");
		} else if (!strcmp(label, "wrongid")) {
			put_addr(m, NULL, 60, "203.0.113.7");
		}
	}
	m->b[3] = (unsigned char)(0x80 | rcode);
	m->b[6] = (unsigned char)(m->answers >> 8);
	m->b[7] = (unsigned char)m->answers;
	return 1;
}

/* Answers one query in place; 0: silence. */
static inline int answer_query(struct upstream *u, struct script *m, size_t len, int tcp)
{
	char name[256] = "";
	size_t at = 12, n = 0;
	unsigned type;

	if (len < 17)
		return 0;
	while (at < len && m->b[at]) {
		if (n)
			name[n++] = '.';
		memcpy(name + n, m->b + at + 1, m->b[at]);
		n += m->b[at];
		at += m->b[at] + 1u;
	}
	name[n] = '\0';
	type = (unsigned)m->b[at + 1] << 8 | m->b[at + 2];
	pthread_mutex_lock(&u->lock);
	n = strlen(u->seen);
	snprintf(u->seen + n, sizeof(u->seen) - n, "%s/%u ", name, type);
	pthread_mutex_unlock(&u->lock);
	m->n = at + 5;
	m->answers = 0;
	m->b[2] = 0x81;
	for (n = 0; name[n]; n++)
		name[n] = (char)tolower(name[n]);
	memset(m->b + 6, 0, 6);
	return script(m, name, type, tcp);
}

static inline int read_all(int fd, void *buf, size_t len)
{
	for (size_t n = 0; n < len;) {
		ssize_t r = read(fd, (char *)buf + n, len - n);

		if (r <= 0)
			return 0;
		n += (size_t)r;
	}
	return 1;
}

static inline void serve_tcp(struct upstream *u, struct script *m)
{
	int fd = accept4(u->tcp, NULL, NULL, SOCK_CLOEXEC);
	unsigned char len[2];
	ssize_t r;

	if (fd < 0)
		return;
	while (read_all(fd, len, 2) && read_all(fd, m->b, (size_t)len[0] << 8 | len[1]) &&
		answer_query(u, m, (size_t)len[0] << 8 | len[1], 1)) {
		len[0] = (unsigned char)(m->n >> 8);
		len[1] = (unsigned char)m->n;
		r = send(fd, len, 2, MSG_NOSIGNAL);
		r = r > 0 ? send(fd, m->b, m->n, MSG_NOSIGNAL) : r;
		if (r < 0)
			break;
	}
	close(fd);
}

static inline void *upstream_main(void *arg)
{
	struct upstream *u = arg;
	struct script *m = malloc(sizeof(*m));

	for (;;) {
		struct pollfd p[] = {
			{u->udp, POLLIN, 0}, {u->tcp, POLLIN, 0}, {u->stop[0], POLLIN, 0}};
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		ssize_t n;

		poll(p, 3, -1);
		if (p[2].revents)
			break;
		if (p[1].revents)
			serve_tcp(u, m);
		if (!p[0].revents)
			continue;
		n = recvfrom(u->udp, m->b, sizeof(m->b), 0, (struct sockaddr *)&from, &len);
		if (n < 0 || !answer_query(u, m, (size_t)n, 0))
			continue;
		if (!memcmp(m->b + 13, "wrongid",
			    7)) { /* first a forged answer, as from someone who guesses */
			m->b[0] ^= 0x55;
			m->b[m->n - 1] ^= 0x40;
			sendto(u->udp, m->b, m->n, 0, (struct sockaddr *)&from, len);
			m->b[m->n - 1] ^= 0x40;
			m->b[0] ^= 0x55;
		}
		sendto(u->udp, m->b, m->n, 0, (struct sockaddr *)&from, len);
	}
	free(m);
	return NULL;
}

static inline int bound(int type, const char *addr)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(53)};
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, addr, &in.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0) {
		perror("bind port 53");
		exit(1);
	}
	return fd;
}

static inline void upstream_start(struct upstream *u)
{
	memset(u, 0, sizeof(*u));
	u->udp = bound(SOCK_DGRAM, "127.0.0.1");
	u->tcp = bound(SOCK_STREAM, "127.0.0.1");
	if (listen(u->tcp, 16) < 0 || pipe2(u->stop, O_CLOEXEC) < 0)
		exit(1);
	pthread_mutex_init(&u->lock, NULL);
	pthread_create(&u->thread, NULL, upstream_main, u);
}

static inline void upstream_stop(struct upstream *u)
{
	close(u->stop[1]);
	pthread_join(u->thread, NULL);
	close(u->stop[0]);
	close(u->udp);
	close(u->tcp);
}

/* Did the server see this query ("name/type")? Without case. */
static inline int upstream_saw(struct upstream *u, const char *query)
{
	int found;

	pthread_mutex_lock(&u->lock);
	found = strcasestr(u->seen, query) != NULL;
	pthread_mutex_unlock(&u->lock);
	return found;
}

#endif
