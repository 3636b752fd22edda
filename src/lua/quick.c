/* See quick.h. A Lua error may leave take() anywhere: a rule counts only when all of it is in the store. */
#include "lua/quick.h"
#include "lua/box.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PROTOS 16
#define MOST_ENTRIES (1u << 24) /* as l_policy.c: what is beyond is left to it */
#define LONGEST_REASON 200

/* Texts lie one after another in `chars`, named by their offset. */
struct row {
	size_t where, text, reason, entries;
	uint32_t number;
	uint8_t action;
	bool has_reason;
};

/* What stands before the place, as fast.lua's shape() has it; the table stays in fast.lua's list. */
struct form {
	const void *table;
	uint8_t protos[MOST_PROTOS];
	uint8_t proto_count; /* 0: any */
	uint8_t dir;
	bool ported;
};

struct lat_quick {
	struct row *rows;
	struct lat_entry *entries;
	struct form *forms;
	char *chars;
	size_t row_count, row_cap, entry_count, entry_cap, form_count, form_cap, char_count, char_cap;
	size_t next; /* row that lat_quick_next looks at */
};

static void quick_close(void *object)
{
	struct lat_quick *q = object;

	free(q->rows);
	free(q->entries);
	free(q->forms);
	free(q->chars);
	free(q);
}

static const struct lat_box_type quick_type = { "lattice.policy.Quick", quick_close };

/* Room for `more` elements behind `count`. */
static void *room(lua_State *L, void *items, size_t count, size_t more, size_t *cap, size_t size)
{
	size_t larger = *cap ? *cap : 64;

	if (count + more <= *cap)
		return items;
	while (larger < count + more)
		larger *= 2;
	items = realloc(items, larger * size);
	if (!items)
		luaL_error(L, "out of memory");
	*cap = larger;
	return items;
}

/* ---- one rule as it was said ---- */

/* Of a text: where its parts are, and what the place is. */
struct said {
	const char *head, *plain, *tail;
	size_t head_len, plain_len, tail_len;
	uint32_t addr;
	uint8_t len;
};

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Decimal, no zero before it, at most `most`; the digits end at the return value, NULL if it is not that. */
static const char *number(const char *p, const char *end, uint32_t most, uint32_t *out)
{
	const char *from = p;
	uint32_t n = 0;

	for (; p < end && digit(*p); p++) {
		if (p - from >= 5)
			return NULL;
		n = n * 10 + (uint32_t)(*p - '0');
	}
	if (p == from || n > most || (*from == '0' && p - from > 1))
		return NULL;
	*out = n;
	return p;
}

/* An IPv4 address, maybe with a length, without bits beyond it; and where it ends. */
static const char *place(const char *p, const char *end, struct said *s)
{
	uint32_t part, len = 32;

	s->plain = p;
	s->addr = 0;
	for (int i = 0; i < 4; i++) {
		if (i && (p == end || *p++ != '.'))
			return NULL;
		p = number(p, end, 255, &part);
		if (!p)
			return NULL;
		s->addr = s->addr << 8 | part;
	}
	s->plain_len = (size_t)(p - s->plain);
	if (p < end && *p == '/') {
		p = number(p + 1, end, 32, &len);
		if (!p)
			return NULL;
	}
	s->len = (uint8_t)len;
	return len < 32 && (uint64_t)s->addr << (32 + len) != 0 ? NULL : p;
}

/* "tcp to 10.0.0.0/8 port 443": a head of small letters, commas and blanks, a place, and the rest. */
static bool split(const char *text, size_t size, struct said *s)
{
	const char *p = text, *end = text + size;

	while (p < end && ((*p >= 'a' && *p <= 'z') || *p == ',' || *p == ' '))
		p++;
	s->head = text;
	s->head_len = (size_t)(p - text);
	p = s->head_len ? place(p, end, s) : NULL;
	if (!p)
		return false;
	s->tail = p;
	s->tail_len = (size_t)(end - p);
	return true;
}

/* ---- take ---- */

/* Stack of take(): its arguments, the lists of parts, the names of fields, and of each rule what it is made of. */
enum {
	STORE = 1, SAID, FROM, RULES, PARTS,
	HEADS, TAILS, PROTOS, PORTS,
	K_ARG, K_OPTIONS, K_ACTION, K_SOURCE, K_LINE, K_NAME, K_PROTO, K_TO, K_PORT, K_REASON, K_PORTS, K_TEXT,
	RULE, ARG, FORM, PORT, OPENING, WHERE, SLOTS = WHERE
};

static const char *const words[] = { "arg", "options", "action", "source", "line", "name", "proto", "to", "port", "reason",
	"ports", "text" };
static const char *const lists[] = { "heads", "tails", "protos", "ports" };

struct taker {
	lua_State *L;
	struct lat_quick *q;
	const void *source; /* the last one's table, its name is `name` */
	const char *name;
	size_t name_len;
	struct said said;
	uint32_t lo, hi;    /* of one port or any; not where PORT is a list */
	bool ported, listed;
	const char *reason;
	size_t reason_len;
};

/* Pushes t[key], both on the stack, and returns its type. */
static int get(lua_State *L, int table, int key)
{
	lua_pushvalue(L, key);
	return lua_rawget(L, table);
}

/* Puts list[text] into a slot: was it learned, and good? */
static bool learned(struct taker *t, int list, int slot, const char *text, size_t len)
{
	bool good;

	lua_pushlstring(t->L, text, len);
	good = lua_rawget(t->L, list) == LUA_TTABLE;
	lua_replace(t->L, slot);
	return good;
}

static bool one_port(struct taker *t, lua_Integer port)
{
	if (port < 1 || port > UINT16_MAX)
		return false;
	t->lo = t->hi = (uint32_t)port;
	t->ported = true;
	return true;
}

/* " port 443"; what else stands there has been learned, or not. */
static bool take_tail(struct taker *t)
{
	static const char word[] = " port ";
	const size_t n = sizeof(word) - 1;
	const char *tail = t->said.tail;
	size_t len = t->said.tail_len;

	if (!len)
		return true;
	if (len > n && len <= n + 5 && memcmp(tail, word, n) == 0) {
		lua_Integer port = 0;
		size_t i = n;

		for (; i < len && digit(tail[i]); i++)
			port = port * 10 + (tail[i] - '0');
		if (i == len)
			return one_port(t, port);
	}
	t->ported = t->listed = true;
	return learned(t, TAILS, PORT, tail, len);
}

static bool take_text(struct taker *t)
{
	size_t len;
	const char *text = lua_tolstring(t->L, ARG, &len);

	return split(text, len, &t->said) && learned(t, HEADS, FORM, t->said.head, t->said.head_len) && take_tail(t);
}

static bool take_port(struct taker *t)
{
	lua_State *L = t->L;
	const char *text;
	size_t len;

	if (lua_isinteger(L, -1))
		return one_port(t, lua_tointeger(L, -1));
	if (lua_type(L, -1) != LUA_TSTRING)
		return false;
	text = lua_tolstring(L, -1, &len);
	t->ported = t->listed = true;
	return learned(t, PORTS, PORT, text, len);
}

static bool take_reason(struct taker *t)
{
	if (lua_type(t->L, -1) != LUA_TSTRING)
		return false;
	t->reason = lua_tolstring(t->L, -1, &t->reason_len); /* the rule keeps it */
	for (size_t i = 0; i < t->reason_len; i++)
		if ((unsigned char)t->reason[i] < 32 || t->reason[i] == 127)
			return false;
	return t->reason_len >= 1 && t->reason_len <= LONGEST_REASON;
}

/* { proto = "tcp", to = "10.0.0.0/8", port = 443, reason = "..." } */
static bool take_fields(struct taker *t)
{
	lua_State *L = t->L;
	bool proto = false, to = false, good = true;

	lua_pushnil(L);
	while (good && lua_next(L, ARG)) {
		size_t len;
		const char *text;

		if (lua_rawequal(L, -2, K_PORT)) {
			good = take_port(t);
		} else if (lua_rawequal(L, -2, K_REASON)) {
			good = take_reason(t);
		} else if (lua_type(L, -1) != LUA_TSTRING) {
			good = false;
		} else if (lua_rawequal(L, -2, K_PROTO)) {
			text = lua_tolstring(L, -1, &len);
			good = proto = learned(t, PROTOS, FORM, text, len);
		} else if (lua_rawequal(L, -2, K_TO)) {
			text = lua_tolstring(L, -1, &len);
			good = to = place(text, text + len, &t->said) == text + len;
		} else {
			good = false;
		}
		lua_pop(L, 1);
	}
	lua_settop(L, SLOTS);
	return good && proto && to;
}

/* ---- into the store ---- */

static uint8_t action_of(const char *name)
{
	for (int i = 0; i < LAT_ACTION_COUNT; i++)
		if (strcmp(lat_action_name((enum lat_action)i), name) == 0)
			return (uint8_t)i;
	return LAT_ACTION_COUNT;
}

/* The form in the slot FORM; NULL: more protocols than are kept. */
static const struct form *form_of(struct taker *t)
{
	lua_State *L = t->L;
	struct lat_quick *q = t->q;
	const void *table = lua_topointer(L, FORM);
	struct form form = { .table = table };
	lua_Integer n;

	for (size_t i = 0; i < q->form_count; i++)
		if (q->forms[i].table == table)
			return &q->forms[i];
	lua_getfield(L, FORM, "dir");
	form.dir = strcmp(luaL_checkstring(L, -1), "in") == 0 ? LAT_DIR_IN : LAT_DIR_OUT;
	lua_getfield(L, FORM, "ported");
	form.ported = lua_toboolean(L, -1);
	n = lua_getfield(L, FORM, "protos") == LUA_TTABLE ? (lua_Integer)lua_rawlen(L, -1) : 0;
	if (n > MOST_PROTOS)
		return NULL;
	for (lua_Integer i = 1; i <= n; i++) {
		lua_rawgeti(L, -1, i);
		form.protos[form.proto_count++] = (uint8_t)luaL_checkinteger(L, -1);
		lua_pop(L, 1);
	}
	lua_settop(L, SLOTS);
	q->forms = room(L, q->forms, q->form_count, 1, &q->form_cap, sizeof(*q->forms));
	q->forms[q->form_count] = form;
	return &q->forms[q->form_count++];
}

static void add_entry(struct taker *t, const struct form *form, const struct row *row, uint32_t at, uint32_t lo, uint32_t hi)
{
	struct lat_entry *e = &t->q->entries[row->entries + at];
	uint32_t addr = __builtin_bswap32(t->said.addr);

	memset(e, 0, sizeof(*e));
	lat_addr_from4(&e->prefix.addr, &addr);
	e->prefix.family = 4;
	e->prefix.len = t->said.len;
	e->rule = row->number;
	e->port_lo = (uint16_t)lo;
	e->port_hi = (uint16_t)hi;
	e->dir = form->dir;
}

/* The match of the row, behind the entries of the rows before it; false: too much. */
static bool add_entries(struct taker *t, const struct form *form, const struct row *row, uint32_t *out)
{
	lua_State *L = t->L;
	struct lat_quick *q = t->q;
	uint32_t protos = form->proto_count ? form->proto_count : 1, ports = 1, at = 0;

	if (t->listed) {
		if (get(L, PORT, K_PORTS) != LUA_TTABLE)
			return false;
		ports = (uint32_t)lua_rawlen(L, -1);
	}
	if (!ports || (uint64_t)protos * ports > MOST_ENTRIES - row->entries)
		return false;
	q->entries = room(L, q->entries, row->entries, (size_t)protos * ports, &q->entry_cap, sizeof(*q->entries));
	for (uint32_t i = 0; i < protos; i++) {
		for (uint32_t k = 0; k < ports; k++, at++) {
			uint32_t lo = t->lo, hi = t->hi;

			if (t->listed) {
				lua_rawgeti(L, -1, k + 1);
				lua_rawgeti(L, -1, 1);
				lua_rawgeti(L, -2, 2);
				lo = (uint32_t)luaL_checkinteger(L, -2);
				hi = (uint32_t)luaL_checkinteger(L, -1);
				lua_pop(L, 3);
			}
			add_entry(t, form, row, at, lo, hi);
			q->entries[row->entries + at].proto = form->proto_count ? form->protos[i] : LAT_PROTO_ANY;
		}
	}
	*out = at;
	return true;
}

/* Copies a text behind the others at *at, which moves on; `end` ends it. */
static void put(struct lat_quick *q, size_t *at, const char *text, size_t len)
{
	memcpy(q->chars + *at, text, len);
	*at += len;
}

/* Texts of the row; how many bytes they are. */
static size_t add_texts(struct taker *t, struct row *row)
{
	struct lat_quick *q = t->q;
	lua_State *L = t->L;
	const struct said *s = &t->said;
	size_t opening_len, ports_len = 0, at = q->char_count;
	const char *opening = lua_tolstring(L, OPENING, &opening_len), *ports = NULL;
	char number[64];

	if (t->listed) {
		get(L, PORT, K_TEXT);
		ports = luaL_checklstring(L, -1, &ports_len); /* the list keeps it */
		lua_pop(L, 1);
	}
	q->chars = room(L, q->chars, at, t->name_len + opening_len + s->plain_len + ports_len + t->reason_len + 128, &q->char_cap, 1);
	row->where = at;
	put(q, &at, t->name, t->name_len);
	put(q, &at, number, (size_t)sprintf(number, ":%lld", (long long)lua_tointeger(L, WHERE)) + 1);
	row->text = at;
	put(q, &at, opening, opening_len);
	put(q, &at, s->plain, s->plain_len);
	if (s->len < 32)
		put(q, &at, number, (size_t)sprintf(number, "/%u", s->len));
	if (t->listed)
		put(q, &at, ports, ports_len + 1);
	else if (t->ported)
		put(q, &at, number, (size_t)sprintf(number, " port %u\"", t->lo) + 1);
	else
		put(q, &at, "\"", 2);
	row->reason = at;
	row->has_reason = t->reason != NULL;
	if (t->reason)
		put(q, &at, t->reason, t->reason_len + 1);
	return at - q->char_count;
}

/* The rule whose parts are in the slots becomes the next row. */
static bool keep(struct taker *t, uint32_t number)
{
	struct lat_quick *q = t->q;
	lua_State *L = t->L;
	const struct form *form = form_of(t);
	struct row row = { .number = number, .entries = q->entry_count };
	uint32_t entries;
	size_t texts;

	if (!form || (t->ported && !form->ported))
		return false;
	if (get(L, RULE, K_ACTION) != LUA_TSTRING)
		return false;
	row.action = action_of(lua_tostring(L, -1));
	if (row.action == LAT_ACTION_COUNT || lua_rawget(L, FORM) != LUA_TSTRING)
		return false;
	lua_replace(L, OPENING);
	if (get(L, RULE, K_LINE) != LUA_TNUMBER)
		return false;
	lua_replace(L, WHERE);
	if (get(L, RULE, K_SOURCE) != LUA_TTABLE)
		return false;
	if (lua_topointer(L, -1) != t->source) {
		if (get(L, lua_gettop(L), K_NAME) != LUA_TSTRING)
			return false;
		t->name = lua_tolstring(L, -1, &t->name_len); /* the source keeps it, and the loader the source */
		t->source = lua_topointer(L, -2);
	}
	lua_settop(L, SLOTS);
	if (!add_entries(t, form, &row, &entries))
		return false;
	lua_settop(L, SLOTS);
	texts = add_texts(t, &row);
	q->rows = room(L, q->rows, q->row_count, 1, &q->row_cap, sizeof(*q->rows));
	q->rows[q->row_count++] = row;
	q->entry_count += entries;
	q->char_count += texts;
	return true;
}

/* The rule in the slot RULE. */
static bool take_one(struct taker *t, uint32_t number)
{
	lua_State *L = t->L;
	int kind;
	bool good;

	t->lo = 0;
	t->hi = UINT16_MAX;
	t->ported = t->listed = false;
	t->reason = NULL;
	t->reason_len = 0;
	if (get(L, RULE, K_OPTIONS) != LUA_TNIL)
		return false;
	kind = get(L, RULE, K_ARG);
	lua_replace(L, ARG);
	lua_settop(L, SLOTS);
	good = kind == LUA_TSTRING ? take_text(t) : kind == LUA_TTABLE && take_fields(t);
	return good && keep(t, number);
}

static int l_take(lua_State *L)
{
	struct taker t = { .L = L, .q = lat_box_check(L, STORE, &quick_type) };
	lua_Integer from = luaL_checkinteger(L, FROM), count, id;

	luaL_checktype(L, SAID, LUA_TTABLE);
	luaL_checktype(L, RULES, LUA_TTABLE);
	luaL_checktype(L, PARTS, LUA_TTABLE);
	lua_settop(L, PARTS);
	luaL_checkstack(L, SLOTS + 10, "rules");
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		lua_getfield(L, PARTS, lists[i]);
		luaL_checktype(L, -1, LUA_TTABLE);
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		lua_pushstring(L, words[i]);
	lua_settop(L, SLOTS);
	count = (lua_Integer)lua_rawlen(L, SAID);
	id = (lua_Integer)lua_rawlen(L, RULES) + 1;
	for (; from <= count; from++, id++) {
		lua_rawgeti(L, SAID, from);
		lua_replace(L, RULE);
		if (!lua_istable(L, RULE) || !take_one(&t, (uint32_t)id))
			break;
		lua_pushboolean(L, 0);
		lua_rawseti(L, RULES, id);
		lua_pushboolean(L, 0);
		lua_rawseti(L, SAID, from);
	}
	lua_pushinteger(L, from);
	return 1;
}

int lat_quick_new(lua_State *L)
{
	struct lat_quick *q;
	struct lat_box *box;

	lat_box_register(L, &quick_type);
	box = lat_box_new(L, &quick_type);
	q = calloc(1, sizeof(*q));
	if (!q)
		return luaL_error(L, "out of memory");
	lat_box_fill(L, box, q);
	lua_pushcfunction(L, l_take);
	return 2;
}

/* ---- out of it ---- */

struct lat_quick *lat_quick_of(lua_State *L, int index)
{
	struct lat_box *box = luaL_testudata(L, index, quick_type.name);

	return box ? box->object : NULL;
}

bool lat_quick_next(struct lat_quick *q, uint32_t number, struct lat_rule *rule, const struct lat_entry **entries,
	size_t *count)
{
	const struct row *row = &q->rows[q->next];
	size_t end;

	if (q->next >= q->row_count || row->number != number)
		return false;
	q->next++;
	end = q->next < q->row_count ? q->rows[q->next].entries : q->entry_count;
	*rule = (struct lat_rule){ .where = q->chars + row->where, .text = q->chars + row->text,
		.reason = row->has_reason ? q->chars + row->reason : NULL, .action = row->action, .log = true };
	*entries = q->entries + row->entries;
	*count = end - row->entries;
	return true;
}
