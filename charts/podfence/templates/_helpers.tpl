{{- define "podfence.agent" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{/* 63 characters at most with "-agent", as in a DNS label. */ -}}
{{- .Values.fullnameOverride | default $name | trunc 57 | trimSuffix "-" -}}-agent
{{- end -}}
