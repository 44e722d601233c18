// Package expect holds expectations about policies against what the policies say: tests that people write
// beside their policies, and run before they apply them.
//
//	parse.go   what people write: a list of tests in YAML
//	run.go     each expectation held against the explanation
//	report.go  the results as lines, and as JUnit's XML
//
// It is pure: texts and an Explainer go in, results come out.
package expect
