// The net/http server of Go: `server PORT CASES SEEN`. It answers by the field x-case and writes what it saw.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

type body struct {
	Size     int         `json:"size"`
	Data     string      `json:"data"`
	Framing  string      `json:"framing"`
	Trailers [][2]string `json:"trailers"`
	Parts    int         `json:"parts"`
	PauseMs  int         `json:"pause_ms"`
}

type exchange struct {
	ID     string `json:"id"`
	Answer struct {
		Status int         `json:"status"`
		Fields [][2]string `json:"fields"`
		Body   *body       `json:"body"`
		Early  bool        `json:"early"`
		HTTP10 bool        `json:"http10"`
		Hints  [][2]string `json:"hints"`
	} `json:"answer"`
}

func (given *body) bytes() []byte {
	if given == nil {
		return nil
	}
	if given.Data != "" {
		data, err := base64.StdEncoding.DecodeString(given.Data)
		must(err)
		return data
	}
	data := make([]byte, given.Size)
	for at := range data {
		data[at] = byte((at%251*31 + 7) % 251)
	}
	return data
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

type server struct {
	table map[string]*exchange
	lock  sync.Mutex
	seen  *os.File
}

func (server *server) ServeHTTP(out http.ResponseWriter, request *http.Request) {
	one := server.table[request.Header.Get("X-Case")]
	if one == nil {
		return
	}
	answer := &one.Answer
	sum := sha256.New()
	var size int64
	if !answer.Early {
		size, _ = io.Copy(sum, request.Body)
	}
	fields := append(pairs(request.Header), [2]string{"host", request.Host})
	for _, coding := range request.TransferEncoding {
		fields = append(fields, [2]string{"transfer-encoding", coding})
	}
	line, err := json.Marshal(map[string]any{
		"run": request.Header.Get("X-Run"), "method": request.Method, "target": text(request.RequestURI),
		"version": fmt.Sprintf("%d.%d", request.ProtoMajor, request.ProtoMinor), "fields": fields,
		"size": size, "digest": fmt.Sprintf("%x", sum.Sum(nil)), "trailers": pairs(request.Trailer),
	})
	must(err)
	server.lock.Lock()
	fmt.Fprintf(server.seen, "%s\n", line)
	server.lock.Unlock()
	bytes := answer.Body.bytes()
	if answer.HTTP10 || answer.Body != nil && answer.Body.Framing == "close" {
		byHand(out, one, bytes)
		return
	}
	for _, hint := range answer.Hints {
		out.Header().Add(hint[0], hint[1])
		out.WriteHeader(http.StatusEarlyHints)
		out.Header().Del(hint[0])
	}
	for _, field := range answer.Fields {
		out.Header().Add(field[0], latin1(field[1]))
	}
	if answer.Early {
		out.Header().Set("Connection", "close")
	}
	if answer.Body != nil && answer.Body.Framing == "length" && answer.Status != 304 {
		out.Header().Set("Content-Length", fmt.Sprint(len(bytes)))
	}
	out.WriteHeader(answer.Status)
	if answer.Body == nil {
		return
	}
	parts := max(answer.Body.Parts, 1)
	for at := range parts {
		if at > 0 {
			time.Sleep(time.Duration(answer.Body.PauseMs) * time.Millisecond)
		}
		out.Write(bytes[at*len(bytes)/parts : (at+1)*len(bytes)/parts])
		if answer.Body.Framing == "chunked" {
			out.(http.Flusher).Flush()
		}
	}
	for _, field := range answer.Body.Trailers {
		out.Header().Set(field[0], field[1])
	}
}

// An answer whose end is its connection's.
func byHand(out http.ResponseWriter, one *exchange, bytes []byte) {
	conn, _, err := out.(http.Hijacker).Hijack()
	must(err)
	defer conn.Close()
	version := 1
	if one.Answer.HTTP10 {
		version = 0
	}
	to := bufio.NewWriter(conn)
	fmt.Fprintf(to, "HTTP/1.%d %d OK\r\n", version, one.Answer.Status)
	for _, field := range one.Answer.Fields {
		fmt.Fprintf(to, "%s: %s\r\n", field[0], latin1(field[1]))
	}
	if version == 1 {
		to.WriteString("connection: close\r\n")
	}
	to.WriteString("\r\n")
	to.Write(bytes)
	to.Flush()
}

func main() {
	text, err := os.ReadFile(os.Args[2])
	must(err)
	var rows []*exchange
	must(json.Unmarshal(text, &rows))
	seen, err := os.OpenFile(os.Args[3], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	handler := &server{table: map[string]*exchange{}, seen: seen}
	for _, row := range rows {
		handler.table[row.ID] = row
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+strings.TrimSpace(os.Args[1]))
	must(err)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	must((&http.Server{Handler: handler, Protocols: protocols}).Serve(listener))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
