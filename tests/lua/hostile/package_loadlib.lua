-- expect line 2: 'package' is not available
package.loadlib("/lib/x.so", "*")
