{{- define "rejoinder.labels" -}}
app.kubernetes.io/name: rejoinder
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* (root, name): the labels by which the pods of a service are found. */}}
{{- define "rejoinder.selector" -}}
app.kubernetes.io/name: rejoinder
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* (root, name): the same as a label selector. */}}
{{- define "rejoinder.match" -}}
{matchLabels: {app.kubernetes.io/name: rejoinder, app.kubernetes.io/instance: {{ .root.Release.Name }}, app.kubernetes.io/component: {{ .name }}}}
{{- end }}

{{- define "rejoinder.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "rejoinder.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "rejoinder.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The most replicas that a service may get. */}}
{{- define "rejoinder.most" -}}
{{- $own := index .root.Values .name -}}
{{- $scaled := or (has .name (list "replay" "ingest")) .root.Values.keda.enabled -}}
{{- if and .root.Values.autoscaling.enabled $scaled }}{{ max $own.replicas $own.maxReplicas }}{{ else }}{{ $own.replicas }}{{ end -}}
{{- end }}

{{/* Whether an autoscaler, and not the manifest, says how many replicas there are: "true" or "". */}}
{{- define "rejoinder.autoscaled" -}}
{{- if and .root.Values.autoscaling.enabled (or (has .name (list "replay" "ingest")) .root.Values.keda.enabled) -}}true{{- end -}}
{{- end }}

{{- define "rejoinder.kafkaUser" -}}
{{ .root.Release.Name }}-{{ .name }}-kafka
{{- end }}

{{/* The Secrets with files for Kafka's TLS, as {ca: NAME, cert: NAME, crt: KEY, key: KEY}; empty where there are none. */}}
{{- define "rejoinder.kafkaFiles" -}}
{{- with .root.Values.kafka -}}
{{- if .strimzi.enabled -}}
{ca: {{ $.root.Release.Name }}-cluster-ca-cert, cert: {{ include "rejoinder.kafkaUser" $ }}, crt: user.crt, key: user.key}
{{- else -}}
{ca: {{ .caSecret | quote }}, cert: {{ .certSecret | replace "{service}" $.name | quote }}, crt: tls.crt, key: tls.key}
{{- end -}}
{{- end -}}
{{- end }}
