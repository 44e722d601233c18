// Package folder is the source of a node that has no API server: it feeds the enforcer what a folder of
// YAML says (package manifests), and again whenever that changes.
//
//	source.go  Source
package folder
