import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

/** The JDK's HttpServer: {@code java Server.java PORT LINES SEEN}. It answers by the field x-case and writes what it saw. */
public class Server {
    static final Map<String, String[]> TABLE = new HashMap<>();
    static Path seen;

    public static void main(String[] args) throws Exception {
        for (String line : Files.readAllLines(Path.of(args[1]))) {
            String[] row = line.split("\t", -1);
            TABLE.put(text(row[0]), row);
        }
        seen = Path.of(args[2]);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 128);
        server.createContext("/", Server::handle);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }

    static byte[] bytes(String column) {
        return Base64.getDecoder().decode(column);
    }

    static String text(String column) {
        return new String(bytes(column), StandardCharsets.UTF_8);
    }

    static void handle(HttpExchange exchange) throws IOException {
        String[] row = TABLE.get(exchange.getRequestHeaders().getFirst("x-case"));
        byte[] body = exchange.getRequestBody().readAllBytes();
        if (row == null) {
            exchange.sendResponseHeaders(200, -1);
            exchange.close();
            return;
        }
        record(exchange, body);
        for (String line : text(row[7]).lines().toList()) {
            String[] field = line.split(": ?", 2);
            if (!field[0].equals("content-length")) {
                exchange.getResponseHeaders().add(field[0], field[1]);
            }
        }
        byte[] answer = bytes(row[9]);
        boolean length = text(row[8]).equals("length");
        boolean head = exchange.getRequestMethod().equals("HEAD");
        if (head && length) {
            exchange.getResponseHeaders().set("content-length", String.valueOf(answer.length));
        }
        boolean none = head || text(row[8]).isEmpty() || (length && answer.length == 0);
        exchange.sendResponseHeaders(Integer.parseInt(text(row[6])), none ? -1 : length ? answer.length : 0);
        if (!none) {
            write(exchange.getResponseBody(), answer, Integer.parseInt(text(row[10])), Integer.parseInt(text(row[11])));
        }
        exchange.close();
    }

    static void write(OutputStream out, byte[] answer, int parts, int pause) throws IOException {
        for (int at = 0; at < parts; at++) {
            if (at > 0) {
                try {
                    Thread.sleep(pause);
                } catch (InterruptedException ended) {
                    return;
                }
            }
            int from = at * answer.length / parts;
            out.write(answer, from, (at + 1) * answer.length / parts - from);
            out.flush();
        }
        out.close();
    }

    static synchronized void record(HttpExchange exchange, byte[] body) throws IOException {
        List<String> fields = new ArrayList<>();
        exchange.getRequestHeaders().forEach((name, values) ->
            values.forEach(value -> fields.add("[" + quoted(name) + "," + quoted(value) + "]")));
        String digest;
        try {
            digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        } catch (java.security.NoSuchAlgorithmException never) {
            throw new IOException(never);
        }
        String line = "{\"run\":" + quoted(exchange.getRequestHeaders().getFirst("x-run"))
            + ",\"method\":" + quoted(exchange.getRequestMethod())
            + ",\"target\":" + quoted(exchange.getRequestURI().toString())
            + ",\"version\":" + quoted(exchange.getProtocol().substring(5))
            + ",\"fields\":[" + String.join(",", fields) + "],\"size\":" + body.length
            + ",\"digest\":" + quoted(digest) + ",\"trailers\":[]}\n";
        Files.writeString(seen, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    static String quoted(String value) {
        StringBuilder out = new StringBuilder("\"");
        for (char each : String.valueOf(value).toCharArray()) {
            if (each == '"' || each == '\\' || each < ' ' || each > '~') {
                out.append(String.format("\\u%04x", (int) each));
            } else {
                out.append(each);
            }
        }
        return out.append('"').toString();
    }
}
