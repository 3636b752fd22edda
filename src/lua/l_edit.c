/* lattice.edit: one line from a person at a terminal, with editing, history and completion, by libedit (editline/readline.h
 * of Debian's libedit; BSD licence, GNU readline's would bind the whole program). It blocks: for commands, not for the
 * agent. One editor a process, as the library has it. */
#include "lua/api.h"
#include <editline/readline.h>
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HISTORY 2000

static volatile sig_atomic_t interrupted;
static lua_State *completer; /* during l_read; its function is at COMPLETER */
#define COMPLETER 2

static void on_interrupt(int number)
{
	interrupted = 1;
}

/* Ctrl-C as a key: as a signal it could come just before the read that it should end. */
static int give_up(int count, int key)
{
	interrupted = 1;
	rl_done = 1;
	return 0;
}

/* The candidates that Lua gave for the line up to the cursor, as what libedit puts in place of `text`: each is what was
 * typed and the rest of the candidate. matches[0] is what they share. */
static char **matches_of(lua_State *L, const char *text)
{
	size_t typed = 0, count, shared = 0;
	char **matches;

	if (lua_type(L, -1) == LUA_TSTRING)
		typed = lua_rawlen(L, -1);
	if (!lua_istable(L, -2) || (count = lua_rawlen(L, -2)) == 0 || count > HISTORY)
		return NULL;
	matches = calloc(count + 2, sizeof(*matches));
	if (!matches)
		return NULL;
	for (size_t i = 1; i <= count; i++) {
		const char *one;
		size_t len;

		lua_rawgeti(L, -2, (lua_Integer)i);
		one = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
		if (!one || len < typed)
			one = "", len = 0;
		else
			one += typed, len -= typed;
		matches[i] = malloc(strlen(text) + len + 1);
		if (!matches[i])
			abort(); /* libedit gives up the same way */
		strcpy(matches[i], text);
		memcpy(matches[i] + strlen(text), one, len + 1);
		lua_pop(L, 1);
		if (i == 1)
			shared = strlen(matches[1]);
		while (strncmp(matches[1], matches[i], shared) != 0)
			shared--;
	}
	matches[0] = strndup(matches[1], shared);
	if (!matches[0])
		abort();
	return matches;
}

static char **complete(const char *text, int start, int end)
{
	lua_State *L = completer;
	char **matches = NULL;
	int top = lua_gettop(L);

	rl_attempted_completion_over = 1; /* never names of files */
	if (!lua_checkstack(L, 6))
		return NULL;
	lua_pushvalue(L, COMPLETER);
	lua_pushlstring(L, rl_line_buffer, (size_t)end);
	if (lua_pcall(L, 1, 2, 0) == LUA_OK)
		matches = matches_of(L, text);
	lua_settop(L, top);
	return matches;
}

static int l_open(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1), *history = luaL_optstring(L, 2, NULL);

	setlocale(LC_CTYPE, "");
	rl_readline_name = name;
	if (rl_initialize() != 0)
		return lat_push_errno(L, EIO, "use the terminal");
	rl_parse_and_bind("setty -d intr=");
	rl_add_defun("lattice-give-up", give_up, 'C' & 0x1f);
	rl_attempted_completion_function = complete;
	rl_completion_append_character = '\0';
	using_history();
	stifle_history(HISTORY);
	if (history)
		read_history(history); /* none yet: fine */
	lua_pushboolean(L, 1);
	return 1;
}

static int l_read(lua_State *L)
{
	const char *prompt = luaL_checkstring(L, 1);
	struct sigaction act = { .sa_handler = on_interrupt }, old;
	char *line;

	luaL_checktype(L, COMPLETER, LUA_TFUNCTION);
	lua_settop(L, COMPLETER);
	completer = L;
	interrupted = 0;
	sigaction(SIGINT, &act, &old); /* without SA_RESTART: the read ends, and with it the line */
	line = readline(prompt);
	sigaction(SIGINT, &old, NULL);
	completer = NULL;
	if (!line && interrupted) {
		lua_pushnil(L);
		lua_pushliteral(L, "interrupted");
		return 2;
	}
	if (!line)
		return 0;
	lua_pushstring(L, line); /* at worst the line is lost, with the program */
	free(line);
	return 1;
}

static int l_add(lua_State *L)
{
	add_history(luaL_checkstring(L, 1));
	return 0;
}

static int l_save(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	mode_t old = umask(077);
	int r = write_history(path);

	umask(old);
	if (r != 0)
		return lat_push_errno(L, r > 0 ? r : EIO, "write the history");
	lua_pushboolean(L, 1);
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open, "name: string, history?: string", "boolean?, string? error, string? code",
		"Take the terminal of stdin; the history comes from a file." },
	{ "read", l_read, "prompt: string, complete: fun(line: string): string[], string",
		"string?, string? why",
		"One line; nil at the end, nil and \"interrupted\" at Ctrl-C. complete() gets the line up to the cursor and gives "
		"candidates and the text at its end that they replace." },
	{ "add", l_add, "line: string", "", "Add to the history." },
	{ "save", l_save, "path: string", "boolean?, string? error, string? code",
		"Write the history, readable for its owner only." },
	{ 0 },
};

const struct lat_api lat_api_edit = {
	.name = "lattice.edit",
	.doc = "A line from a person at a terminal, with history and completion. It blocks.",
	.functions = functions,
};
