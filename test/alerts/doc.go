// Package alerts tests what operators see of podfence: the alerts and the dashboard in
// config/prometheus, and that each alert fires at the fault that it is for.
//
//	doc.go      this text
//	promtool.go promtool, and the rules as it reads them
package alerts
