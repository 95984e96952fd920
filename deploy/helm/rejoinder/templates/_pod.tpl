{{/* (root, name, service): a container's variables. */}}
{{- define "rejoinder.environment" -}}
{{- $own := index .root.Values .name -}}
envFrom:
  - configMapRef: {name: {{ .root.Release.Name }}}
  - secretRef: {name: {{ .root.Values.internalSecret }}}
{{- if and .service.apiKeys .root.Values.apiKeys.secret }}
  - secretRef: {name: {{ .root.Values.apiKeys.secret }}}
{{- end }}
{{- if .service.upstreams }}
  - secretRef: {name: {{ .root.Values.upstreams.keysSecret }}, optional: true}
{{- end }}
{{- if .service.webhookKeys }}
  - secretRef: {name: {{ .root.Values.webhooks.keysSecret }}, optional: true}
{{- end }}
{{- with .root.Values.kafka.credentialsSecret }}
  - secretRef: {name: {{ . | replace "{service}" $.name }}}
{{- end }}
env:
  - {name: REJOINDER_GRACE_S, value: {{ $own.graceSeconds | default 20 | int | toString | quote }}}
{{- if .service.upstreams }}
  - {name: REJOINDER_CONFIG, value: /etc/rejoinder/rejoinder.toml}
{{- end }}
{{- if and .service.apiKeys .root.Values.apiKeys.fileSecret }}
  - {name: REJOINDER_API_KEYS_FILE, value: /etc/rejoinder-keys/api-keys}
{{- end }}
{{- if .root.Values.internalTls.secret }}
  - {name: REJOINDER_INTERNAL_CERT_FILE, value: /etc/rejoinder-tls/tls.crt}
  - {name: REJOINDER_INTERNAL_KEY_FILE, value: /etc/rejoinder-tls/tls.key}
  - {name: REJOINDER_INTERNAL_CA_FILE, value: /etc/rejoinder-tls/ca.crt}
{{- end }}
{{- if .service.store }}
  - {name: REJOINDER_STORE_DIR, value: /store}
{{- end }}
{{- if eq .name "analytics" }}
  - {name: REJOINDER_ANALYTICS_INSTANCE, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- end }}
{{- $files := include "rejoinder.kafkaFiles" . | fromYaml }}
{{- if $files.ca }}
  - {name: REJOINDER_KAFKA_CA_FILE, value: /etc/kafka/ca.crt}
{{- end }}
{{- if $files.cert }}
  - {name: REJOINDER_KAFKA_CERT_FILE, value: /etc/kafka/user.crt}
  - {name: REJOINDER_KAFKA_KEY_FILE, value: /etc/kafka/user.key}
{{- end }}
{{- range $name, $value := $own.settings }}
  - {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{/* (root, name, service): what is mounted into a container, and where it comes from. */}}
{{- define "rejoinder.mounts" -}}
{{- $files := include "rejoinder.kafkaFiles" . | fromYaml -}}
{{- if .service.upstreams }}
- {name: upstreams, mountPath: /etc/rejoinder, readOnly: true}
{{- end }}
{{- if and .service.apiKeys .root.Values.apiKeys.fileSecret }}
- {name: api-keys, mountPath: /etc/rejoinder-keys, readOnly: true}
{{- end }}
{{- if .root.Values.internalTls.secret }}
- {name: internal-tls, mountPath: /etc/rejoinder-tls, readOnly: true}
{{- end }}
{{- if .service.store }}
- {name: store, mountPath: /store}
{{- end }}
{{- if or $files.ca $files.cert }}
- {name: kafka, mountPath: /etc/kafka, readOnly: true}
{{- end }}
{{- end }}

{{- define "rejoinder.volumes" -}}
{{- $files := include "rejoinder.kafkaFiles" . | fromYaml -}}
{{- if .service.upstreams }}
- name: upstreams
  configMap: {name: {{ .root.Release.Name }}-upstreams}
{{- end }}
{{- if and .service.apiKeys .root.Values.apiKeys.fileSecret }}
- name: api-keys # the whole folder: a change of the Secret reaches it, and the services read it again
  secret: {secretName: {{ .root.Values.apiKeys.fileSecret }}, defaultMode: 288} # 0440
{{- end }}
{{- with .root.Values.internalTls.secret }}
- name: internal-tls # the whole folder: what a Secret is renewed with is read within seconds
  secret: {secretName: {{ . | replace "{service}" $.name }}, defaultMode: 288} # 0440
{{- end }}
{{- if and .service.store (not (index .root.Values .name).store.claim) }}
- {name: store, emptyDir: {sizeLimit: {{ (index .root.Values .name).store.size }}}} # a new pod reads the index anew
{{- end }}
{{- if or $files.ca $files.cert }}
- name: kafka
  projected:
    defaultMode: 288 # 0440
    sources:
{{- with $files.ca }}
      - secret: {name: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- with $files.cert }}
      - secret: {name: {{ . }}, items: [{key: {{ $files.crt }}, path: user.crt}, {key: {{ $files.key }}, path: user.key}]}
{{- end }}
{{- end }}
{{- end }}

{{/* (root, service, path): a probe's request. */}}
{{- define "rejoinder.asks" -}}
{{- $tls := and (eq .service.alive "internal") .root.Values.internalTls.secret -}}
httpGet: {path: {{ .path }}, port: {{ .service.alive }}{{ if $tls }}, scheme: HTTPS{{ end }}}
{{- end }}

{{/* (root, name, service): the template of a service's pods. */}}
{{- define "rejoinder.pod" -}}
{{- $own := index .root.Values .name -}}
{{- $ports := include "rejoinder.ports" . | fromYaml -}}
metadata:
  labels:
    {{- include "rejoinder.selector" . | nindent 4 }}
    app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  annotations: # pods are replaced when what they read at their start changes
    checksum/config: {{ toJson (list .root.Values.settings .root.Values.kafka .root.Values.unsafe (and .service.upstreams .root.Values.upstreams.config)) | sha256sum | trunc 16 }}
    {{- with .root.Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ .root.Release.Name }}
  automountServiceAccountToken: false
  enableServiceLinks: false # the variables of a Service named rejoinder-… would be taken for settings
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .root.Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  # preStop, then what the service takes to drain at most, and 10 s to spare
  terminationGracePeriodSeconds: {{ add .service.leaves $own.graceSeconds 10 }}
  securityContext: {{- include "rejoinder.podSecurity" . | nindent 4 }}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {{ include "rejoinder.match" $ }}
    {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "rejoinder.image" .root }}
      {{- with .root.Values.image.pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      args: [{{ .name }}]
      {{- include "rejoinder.environment" . | nindent 6 }}
      ports:
        {{- range .service.ports }}
        - {name: {{ . }}, containerPort: {{ index $ports . }}}
        {{- end }}
      {{- if .service.leaves }}
      lifecycle: {preStop: {sleep: {seconds: {{ .service.leaves }}}}}
      {{- end }}
      startupProbe: {periodSeconds: 2, failureThreshold: 60, {{ include "rejoinder.asks" (dict "root" .root "service" .service "path" "/livez") }}}
      readinessProbe: {periodSeconds: 2, timeoutSeconds: 2, {{ include "rejoinder.asks" (dict "root" .root "service" .service "path" "/readyz") }}}
      livenessProbe: {periodSeconds: 10, timeoutSeconds: 5, {{ include "rejoinder.asks" (dict "root" .root "service" .service "path" "/livez") }}}
      resources: {{- toYaml $own.resources | nindent 8 }}
      securityContext: {{- include "rejoinder.containerSecurity" . | nindent 8 }}
      {{- with include "rejoinder.mounts" . | trim }}
      volumeMounts: {{- . | nindent 8 }}
      {{- end }}
  {{- with include "rejoinder.volumes" . | trim }}
  volumes: {{- . | nindent 4 }}
  {{- end }}
{{- end }}
