/* lattice.json: strict JSON. Integers stay 64-bit integers, null is json.null, arrays keep a mark so that an empty one comes
 * out as []. The decoder is jansson's; the encoder writes sorted keys, so that equal values give equal text. */
#include "lua/api.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64
#define MAX_TEXT (64u << 20) /* bytes that decode takes: jansson's memory is outside the state's cap */

static const char null_key, array_key; /* registry keys */

static void close_json(void *object)
{
	json_decref(object);
}

static const struct lat_box_type tree_type = { "lattice.json.Tree", close_json };

/* ---- encode ---- */

/* Text under construction, in a box, so that an error on the way frees it. */
struct text {
	char *bytes;
	size_t len, size;
};

struct encoder {
	lua_State *L;
	struct text *text;
	bool pretty;
};

static void close_text(void *object)
{
	struct text *t = object;

	free(t->bytes);
	free(t);
}

static const struct lat_box_type text_type = { "lattice.json.Text", close_text };

static void add(struct encoder *e, const char *s, size_t len)
{
	struct text *t = e->text;

	if (len > t->size - t->len) {
		size_t size = t->size ? t->size * 2 : 256;
		char *bytes;

		while (size - t->len < len)
			size *= 2;
		if (size > MAX_TEXT)
			luaL_error(e->L, "the JSON text is too long");
		bytes = realloc(t->bytes, size);
		if (!bytes)
			luaL_error(e->L, "out of memory");
		t->bytes = bytes;
		t->size = size;
	}
	memcpy(t->bytes + t->len, s, len);
	t->len += len;
}

static void add_text(struct encoder *e, const char *s)
{
	add(e, s, strlen(s));
}

/* Length of the UTF-8 sequence at s (shortest form, no surrogates), 0 if it is none. */
static size_t utf8_step(const unsigned char *s, size_t left)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc2 ? 2 : 0;
	uint32_t code;

	if (n <= 1 || n > left)
		return n == 1 ? 1 : 0;
	code = s[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

static void encode_string(struct encoder *e, const char *s, size_t len)
{
	char escape[8];

	add(e, "\"", 1);
	for (size_t i = 0, n; i < len; i += n) {
		unsigned char c = (unsigned char)s[i];

		n = utf8_step((const unsigned char *)s + i, len - i);
		if (!n)
			luaL_error(e->L, "cannot encode a string that is not UTF-8 (byte %d)", (int)i + 1);
		if (c == '"' || c == '\\' || c == '\n' || c == '\t' || c == '\r') {
			escape[0] = '\\';
			escape[1] = c == '\n' ? 'n' : c == '\t' ? 't' : c == '\r' ? 'r' : (char)c;
			add(e, escape, 2);
		} else if (c < 0x20 || c == 0x7f) {
			snprintf(escape, sizeof(escape), "\\u%04x", c);
			add(e, escape, 6);
		} else {
			add(e, s + i, n);
		}
	}
	add(e, "\"", 1);
}

static void new_line(struct encoder *e, int depth)
{
	if (!e->pretty)
		return;
	add(e, "\n", 1);
	for (int i = 0; i < depth; i++)
		add(e, "  ", 2);
}

static void encode_value(struct encoder *e, int depth);

/* The table at the top of the stack is an array when it is marked as one, or has an element 1. */
static bool is_array(lua_State *L)
{
	bool marked = false;

	if (lua_getmetatable(L, -1)) {
		lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
		marked = lua_rawequal(L, -1, -2);
		lua_pop(L, 2);
	}
	return marked || lua_rawlen(L, -1) > 0;
}

static void encode_array(struct encoder *e, int depth)
{
	lua_State *L = e->L;
	lua_Integer n = (lua_Integer)lua_rawlen(L, -1), keys = 0;

	for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
		keys++;
	if (keys != n)
		luaL_error(L, "cannot encode a table that is an array with other keys or holes");
	add(e, "[", 1);
	for (lua_Integer i = 1; i <= n; i++) {
		if (i > 1)
			add(e, ",", 1);
		new_line(e, depth + 1);
		lua_rawgeti(L, -1, i);
		encode_value(e, depth + 1);
		lua_pop(L, 1);
	}
	if (n)
		new_line(e, depth);
	add(e, "]", 1);
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys' bytes are anchored by the table itself; the vector of pointers is a Lua userdata. */
static void encode_object(struct encoder *e, int depth)
{
	lua_State *L = e->L;
	size_t n = 0, i = 0;
	const char **keys;

	for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
		if (lua_type(L, -2) != LUA_TSTRING)
			luaL_error(L, "cannot encode a table with a %s as key", luaL_typename(L, -2));
		n++;
	}
	keys = lua_newuserdatauv(L, (n + 1) * sizeof(*keys), 0);
	for (lua_pushnil(L); lua_next(L, -3) && i < n; lua_pop(L, 1)) {
		size_t len;

		keys[i] = lua_tolstring(L, -2, &len);
		if (strlen(keys[i]) != len)
			luaL_error(L, "cannot encode a key with a NUL byte");
		i++;
	}
	qsort(keys, n, sizeof(*keys), compare_keys);
	add(e, "{", 1);
	for (i = 0; i < n; i++) {
		if (i > 0)
			add(e, ",", 1);
		new_line(e, depth + 1);
		encode_string(e, keys[i], strlen(keys[i]));
		add_text(e, e->pretty ? ": " : ":");
		lua_pushstring(L, keys[i]);
		lua_rawget(L, -3);
		encode_value(e, depth + 1);
		lua_pop(L, 1);
	}
	if (n)
		new_line(e, depth);
	add(e, "}", 1);
	lua_pop(L, 1);
}

static void encode_number(struct encoder *e)
{
	char digits[40];
	double d;

	if (lua_isinteger(e->L, -1)) {
		snprintf(digits, sizeof(digits), "%" PRId64, (int64_t)lua_tointeger(e->L, -1));
	} else {
		d = lua_tonumber(e->L, -1);
		if (!isfinite(d))
			luaL_error(e->L, "cannot encode an infinite number or NaN");
		snprintf(digits, sizeof(digits), "%.15g", d);
		if (strtod(digits, NULL) != d)
			snprintf(digits, sizeof(digits), "%.17g", d);
		if (!strpbrk(digits, ".e"))
			strcat(digits, ".0");
	}
	add_text(e, digits);
}

/* Writes the value at the top of the stack and leaves the stack as it was. */
static void encode_value(struct encoder *e, int depth)
{
	lua_State *L = e->L;
	const char *s;
	size_t len;

	luaL_checkstack(L, 8, "JSON");
	switch (lua_type(L, -1)) {
	case LUA_TBOOLEAN:
		add_text(e, lua_toboolean(L, -1) ? "true" : "false");
		return;
	case LUA_TNUMBER:
		encode_number(e);
		return;
	case LUA_TSTRING:
		s = lua_tolstring(L, -1, &len);
		encode_string(e, s, len);
		return;
	case LUA_TTABLE:
		if (depth >= MAX_DEPTH)
			luaL_error(L, "cannot encode more than %d levels (a cycle?)", MAX_DEPTH);
		if (is_array(L))
			encode_array(e, depth);
		else
			encode_object(e, depth);
		return;
	default:
		lua_rawgetp(L, LUA_REGISTRYINDEX, &null_key);
		if (!lua_rawequal(L, -1, -2))
			luaL_error(L, "cannot encode a %s", luaL_typename(L, -2));
		lua_pop(L, 1);
		add_text(e, "null");
	}
}

static int l_encode(lua_State *L)
{
	struct encoder e = { .L = L };
	struct lat_box *box;

	luaL_checkany(L, 1);
	e.pretty = lua_toboolean(L, 2);
	lua_settop(L, 1);
	box = lat_box_new(L, &text_type);
	e.text = calloc(1, sizeof(*e.text));
	if (!e.text)
		return luaL_error(L, "out of memory");
	lat_box_fill(L, box, e.text);
	lua_pushvalue(L, 1);
	encode_value(&e, 0);
	lua_pushlstring(L, e.text->bytes, e.text->len);
	lat_box_close(L, box);
	return 1;
}

/* ---- decode ---- */

static void push_json(lua_State *L, json_t *v, int depth)
{
	const char *key;
	json_t *item;
	size_t i;

	luaL_checkstack(L, 4, "JSON");
	switch (json_typeof(v)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (depth >= MAX_DEPTH)
			luaL_error(L, "more than %d levels", MAX_DEPTH);
		break;
	case JSON_STRING:
		lua_pushlstring(L, json_string_value(v), json_string_length(v));
		return;
	case JSON_INTEGER:
		lua_pushinteger(L, json_integer_value(v));
		return;
	case JSON_REAL:
		lua_pushnumber(L, json_real_value(v));
		return;
	case JSON_NULL:
		lua_rawgetp(L, LUA_REGISTRYINDEX, &null_key);
		return;
	default:
		lua_pushboolean(L, json_is_true(v));
		return;
	}
	if (json_is_array(v)) {
		lua_createtable(L, (int)json_array_size(v), 0);
		json_array_foreach(v, i, item) {
			push_json(L, item, depth + 1);
			lua_rawseti(L, -2, (lua_Integer)i + 1);
		}
		lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
		lua_setmetatable(L, -2);
		return;
	}
	lua_createtable(L, 0, (int)json_object_size(v));
	json_object_foreach(v, key, item) {
		lua_pushstring(L, key);
		push_json(L, item, depth + 1);
		lua_rawset(L, -3);
	}
}

static int push_tree(lua_State *L)
{
	push_json(L, lat_box_check(L, 1, &tree_type), 0);
	return 1;
}

/* With the message on the stack: nil, message, code. */
static int failed(lua_State *L)
{
	lua_pushnil(L);
	lua_insert(L, -2);
	lua_pushliteral(L, "EINVAL");
	return 3;
}

static int l_decode(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	struct lat_box *box;
	json_error_t error;
	json_t *tree;
	int r;

	if (len > MAX_TEXT) {
		lua_pushliteral(L, "the JSON text is too long");
		return failed(L);
	}
	lua_pushcfunction(L, push_tree);
	box = lat_box_new(L, &tree_type);
	tree = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
	if (!tree) {
		lua_pushfstring(L, "line %d, column %d: %s", error.line, error.column, error.text);
		return failed(L);
	}
	lat_box_fill(L, box, tree);
	lua_pushvalue(L, -1);
	lua_insert(L, -3); /* box, push_tree, box */
	r = lua_pcall(L, 1, 1, 0);
	lat_box_close(L, box);
	if (r == LUA_OK)
		return 1;
	if (r != LUA_ERRRUN || lua_type(L, -1) != LUA_TSTRING)
		return lua_error(L);
	return failed(L);
}

static int l_array(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
	lua_setmetatable(L, 1);
	return 1;
}

static int null_text(lua_State *L)
{
	lua_pushliteral(L, "null");
	return 1;
}

static int open_json(lua_State *L)
{
	lat_box_register(L, &text_type);
	lat_box_register(L, &tree_type);
	lua_createtable(L, 0, 1);
	lua_pushliteral(L, "lattice.json.Array");
	lua_setfield(L, -2, "__name");
	lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);
	lua_newuserdatauv(L, 0, 0);
	lua_createtable(L, 0, 2);
	lua_pushcfunction(L, null_text);
	lua_setfield(L, -2, "__tostring");
	lua_pushliteral(L, "locked");
	lua_setfield(L, -2, "__metatable");
	lua_setmetatable(L, -2);
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &null_key);
	lua_setfield(L, -2, "null");
	return 0;
}

static const struct lat_api_function functions[] = {
	{ "encode", l_encode, "value: any, pretty?: boolean", "string",
		"JSON text with sorted keys; throws on what JSON cannot hold." },
	{ "decode", l_decode, "text: string", "any value, string? error, string? code",
		"The value of a JSON text; nil, error, code if it is none. Integers stay integers." },
	{ "array", l_array, "list: table", "table", "Mark a table as an array, so that an empty one is []." },
	{ 0 },
};

static const struct lat_api_field fields[] = {
	{ "null", "userdata", "The value of JSON's null." },
	{ 0 },
};

const struct lat_api lat_api_json = {
	.name = "lattice.json",
	.doc = "Strict JSON with exact 64-bit integers.",
	.functions = functions,
	.fields = fields,
	.open = open_json,
	.pure = true,
};
