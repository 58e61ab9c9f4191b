# curl alone: health, metadata, inference in JSON and in bytes, statistics, what is wrong, and the document of it all.
say() {
    printf '$ curl'
    for word; do case $word in *[\ \"]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac; done
    echo
    curl -sS "$@"
    echo
}
say $1/v2/health/ready -w ' %{http_code}'
say $1/v2/models/kws
for name in kws rn20 mbv2; do
    curl -sS $1/v2/models/$name/infer -d @${name}_x.json -o ${name}_y.json -w "$name in JSON: %{http_code}\n"
    length=$(head -n 1 ${name}_x.bin | wc -c)
    curl -sS $1/v2/models/$name/infer --data-binary @${name}_x.bin -H "Inference-Header-Content-Length: $length" -D ${name}_head.txt -o ${name}_y.bin \
        -w "$name in bytes: %{http_code}, %{size_download} bytes\n"
done
say $1/v2/models/kws/infer -d '{"inputs": []}'
say $1/v2/models/none/infer -d '{}' -w ' %{http_code}'
say -X DELETE $1/v2 -w ' %{http_code}'
say $3/v2/repository/models/kws/unload -X POST -w ' %{http_code}'
say $1/openapi.json -o openapi.json -w '%{http_code} %{content_type}'
