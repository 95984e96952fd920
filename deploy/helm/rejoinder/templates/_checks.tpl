{{/* Fails where what is given is not safe and was not asked for by name, or cannot work. */}}
{{- define "rejoinder.checks" -}}
{{- $v := .Values -}}
{{- $asked := or $v.apiKeys.secret $v.apiKeys.fileSecret (get $v.settings "REJOINDER_JWT_ISSUER") -}}
{{- if and (not $asked) (not $v.unsafe.withoutApiKeys) -}}
{{- fail "apiKeys.secret: name a Secret whose REJOINDER_API_KEYS has TENANT=KEY pairs with commas between (kubectl create secret generic rejoinder-api-keys --from-literal=REJOINDER_API_KEYS=…); or set apiKeys.fileSecret, or settings.REJOINDER_JWT_ISSUER. Only where something in front authorises every request: unsafe.withoutApiKeys=true" -}}
{{- end -}}
{{- if and $asked $v.unsafe.withoutApiKeys -}}
{{- fail "unsafe.withoutApiKeys is true, but clients are asked for keys or tokens: choose one" -}}
{{- end -}}
{{- if and $v.kafka.strimzi.enabled $v.kafka.bootstrap -}}
{{- fail "kafka.bootstrap names a Kafka that is there already: set kafka.strimzi.enabled=false, or leave bootstrap empty" -}}
{{- end -}}
{{- if not (or $v.kafka.strimzi.enabled $v.kafka.bootstrap) -}}
{{- fail "kafka.bootstrap: name the brokers (HOST:PORT with commas between), or set kafka.strimzi.enabled=true" -}}
{{- end -}}
{{- if and (not $v.kafka.strimzi.enabled) (has $v.kafka.security (list "PLAINTEXT" "SASL_PLAINTEXT")) (not $v.unsafe.plaintextKafka) -}}
{{- fail (printf "kafka.security is %s: what clients say and credentials would cross the network in the clear. Use SSL or SASL_SSL, or set unsafe.plaintextKafka=true" $v.kafka.security) -}}
{{- end -}}
{{- if and (not $v.networkPolicy.enabled) (not $v.unsafe.withoutNetworkPolicies) -}}
{{- fail "networkPolicy.enabled is false: every pod of the cluster could reach the internal ports. If something else guards them: unsafe.withoutNetworkPolicies=true" -}}
{{- end -}}
{{- if and $v.keda.enabled (not $v.keda.prometheus) -}}
{{- fail "keda.prometheus: the URL of the Prometheus that scrapes these pods, such as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- range $name := list "executor" "projector" "analytics" "webhooks" -}}
{{- $most := int (include "rejoinder.most" (dict "root" $ "name" $name)) -}}
{{- if gt $most (int $v.kafka.partitions) -}}
{{- fail (printf "%s: %d replicas, but kafka.partitions is %d: what is beyond that would own nothing" $name $most (int $v.kafka.partitions)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A line for each thing that is not safe and was switched on. */}}
{{- define "rejoinder.unsafe" -}}
{{- if .Values.unsafe.withoutApiKeys }}
- no API key is asked: whoever reaches the front door is served, as the tenant that a header names
{{- end }}
{{- if .Values.unsafe.believeTenantHeader }}
- the route passes the tenant's header on as clients send it
{{- end }}
{{- if .Values.unsafe.plaintextKafka }}
- what clients say and credentials cross the network to Kafka in the clear
{{- end }}
{{- if .Values.unsafe.withoutNetworkPolicies }}
- every pod of the cluster reaches the internal ports, and services may call anywhere
{{- end }}
{{- if .Values.unsafe.privateWebhooks }}
- tenants' webhooks may call private addresses
{{- end }}
{{- end }}
