/* The whole of a command for its main(): a TRUSTED state that runs main(argv) of one Lua module. */
#ifndef LAT_LUA_HOST_H
#define LAT_LUA_HOST_H

/* Returns the exit status: what `main` of the module ("lattice.cli") returned, or 1 with a message on stderr when the
 * command itself broke. argv is handed on from index 0. */
int lat_host_main(const char *module, int argc, char **argv);

#endif
