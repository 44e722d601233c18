// Package chaos makes the faults happen that podfence must hold under, on a lab's
// network namespaces, with live traffic, and counts what passed that should not
// have, and what was cut that should have passed. docs/RELIABILITY.md has the table.
//
//	make chaos
//
// A fault is a test, in the file of its kind. It ends with record. Without -chaos,
// as in `make test`, each fault happens a few times only (see times).
package chaos
