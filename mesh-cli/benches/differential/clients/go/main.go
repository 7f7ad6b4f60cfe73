// The net/http client of Go: `client CASES JOBS NAME`, a line of JSON for each exchange. As `go2` it speaks HTTP/2.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"time"
)

type exchange struct {
	ID     string       `json:"id"`
	Method string       `json:"method"`
	Target string       `json:"target"`
	Fields [][2]*string `json:"fields"`
	Expect bool         `json:"expect"`
	Body   *struct {
		Size     int         `json:"size"`
		Data     string      `json:"data"`
		Framing  string      `json:"framing"`
		Trailers [][2]string `json:"trailers"`
	} `json:"body"`
}

type job struct{ Run, Case, Base, Client string }

type seen struct {
	Run      string      `json:"run"`
	Status   int         `json:"status,omitempty"`
	Reason   string      `json:"reason"`
	Version  string      `json:"version"`
	Fields   [][2]string `json:"fields"`
	Trailers [][2]string `json:"trailers"`
	Hints    []int       `json:"hints"`
	Size     int64       `json:"size"`
	Digest   string      `json:"digest"`
	Streamed bool        `json:"streamed"`
	Error    *string     `json:"error"`
}

// The text of a table has one character for each byte.
func latin1(text string) string {
	out := make([]byte, 0, len(text))
	for _, char := range text {
		out = append(out, byte(char))
	}
	return string(out)
}

func text(bytes string) string {
	out := make([]rune, len(bytes))
	for at := 0; at < len(bytes); at++ {
		out[at] = rune(bytes[at])
	}
	return string(out)
}

func pairs(header http.Header) [][2]string {
	out := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			out = append(out, [2]string{name, text(value)})
		}
	}
	return out
}

// A reader that the library cannot look into, so the length is unknown.
type unknown struct{ io.Reader }

func request(ctx context.Context, job job, one *exchange) *http.Request {
	port := job.Base[strings.LastIndex(job.Base, ":")+1:]
	var body io.Reader
	var data []byte
	if one.Body != nil {
		data = make([]byte, one.Body.Size)
		for at := range data {
			data[at] = byte((at%251*31 + 7) % 251)
		}
		if one.Body.Data != "" {
			var err error
			data, err = base64.StdEncoding.DecodeString(one.Body.Data)
			must(err)
		}
		body = bytes.NewReader(data)
		if one.Body.Framing == "chunked" {
			body = unknown{body}
		}
	}
	out, err := http.NewRequestWithContext(ctx, one.Method, job.Base, body)
	must(err)
	path, query, has := strings.Cut(strings.ReplaceAll(one.Target, "@PORT@", port), "?")
	if strings.HasPrefix(path, "//") {
		// Opaque that begins with two slashes would name a host.
		path = "http://" + out.URL.Host + path
	}
	out.URL = &url.URL{Scheme: "http", Host: out.URL.Host, Opaque: path, RawQuery: query, ForceQuery: has}
	out.Header.Set("X-Run", job.Run)
	out.Header.Set("X-Case", one.ID)
	for _, field := range one.Fields {
		if field[1] != nil {
			out.Header.Add(*field[0], latin1(*field[1]))
		}
	}
	if one.Body != nil && one.Body.Trailers != nil {
		out.Trailer = http.Header{}
		for _, field := range one.Body.Trailers {
			out.Trailer.Set(field[0], field[1])
		}
	}
	return out
}

func ask(client *http.Client, job job, one *exchange) seen {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out := seen{Run: job.Run, Hints: []int{}}
	failed := func(err error) seen {
		name := fmt.Sprintf("%T", err)
		out.Error = &name
		return out
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		if code != 100 {
			out.Hints = append(out.Hints, code)
		}
		return nil
	}})
	answer, err := client.Do(request(ctx, job, one))
	if err != nil {
		return failed(err)
	}
	defer answer.Body.Close()
	out.Status, out.Version = answer.StatusCode, fmt.Sprintf("%d.%d", answer.ProtoMajor, answer.ProtoMinor)
	_, out.Reason, _ = strings.Cut(answer.Status, " ")
	sum, buffer := sha256.New(), make([]byte, 65536)
	var first, last time.Time
	for err == nil {
		var count int
		count, err = answer.Body.Read(buffer)
		if count > 0 {
			last = time.Now()
			if out.Size == 0 {
				first = last
			}
			out.Size += int64(count)
			sum.Write(buffer[:count])
		}
	}
	out.Digest = fmt.Sprintf("%x", sum.Sum(nil))
	out.Streamed = last.Sub(first) > 200*time.Millisecond
	out.Fields, out.Trailers = pairs(answer.Header), pairs(answer.Trailer)
	for _, coding := range answer.TransferEncoding {
		out.Fields = append(out.Fields, [2]string{"transfer-encoding", coding})
	}
	if err != io.EOF {
		return failed(err)
	}
	return out
}

func main() {
	var rows []*exchange
	read(os.Args[1], &rows)
	var jobs []job
	read(os.Args[2], &jobs)
	table := map[string]*exchange{}
	for _, row := range rows {
		table[row.ID] = row
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, ExpectContinueTimeout: 5 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if os.Args[3] == "go2" {
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		client.Transport.(*http.Transport).Protocols = protocols
	}
	to := json.NewEncoder(os.Stdout)
	for _, job := range jobs {
		if job.Client == os.Args[3] {
			must(to.Encode(ask(client, job, table[job.Case])))
		}
	}
}

func read(path string, into any) {
	text, err := os.ReadFile(path)
	must(err)
	must(json.Unmarshal(text, into))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
