// Package build says what the program that runs was built of: its version, commit and date, and the versions of
// Go and of the API modules in it.
//
//	build.go  Info and Version, and Of, which says it of the program that calls it
//
// Values may be copied, and are not changed by whoever has handed them out. Any goroutine may call Of.
package build
